"""What a request for the fields of a document is answered."""

from collections.abc import Sequence
from typing import Any

from layoutner.inference.labelled_page import Entity, LabelledPage


def to_answer(
    pages: Sequence[LabelledPage], previews: Sequence[str | None], words: bool, min_confidence: float
) -> dict[str, Any]:
    """Fields, pages and words of one document, as JSON.

    Args:
        pages: in their order; the first names the document.
        previews: one data URL per page, or empty.
        words: whether every word of every page is in it.
        min_confidence: fields below it are under "review" instead of "fields".
    """
    fields: dict[str, list[dict[str, Any]]] = {}
    review: dict[str, list[dict[str, Any]]] = {}
    shown = []
    for number, page in enumerate(pages, 1):
        for entity in page.entities:
            found = confidence(page, entity)
            target = fields if found >= min_confidence else review
            target.setdefault(entity.type, []).append(
                {"text": entity.text, "confidence": round(found, 4), "page": number, "box": list(entity.box)}
            )
        tree = page.to_dict()
        if not words:
            del tree["words"], tree["entities"]
        preview = {"preview": previews[number - 1]} if previews else {}
        shown.append({"page": number, **tree, **preview})
    return {"document": pages[0].document.name, "fields": fields, "review": review, "pages": shown}


def confidence(page: LabelledPage, entity: Entity) -> float:
    """How sure the model is of an entity: the least probability of its words."""
    return min(word.probability for word in page.words[entity.start : entity.end])
