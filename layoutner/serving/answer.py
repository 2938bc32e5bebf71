"""What a request for the fields of a document is answered."""

from collections.abc import Sequence
from typing import Any

from layoutner.fields.record import Rules, make_record
from layoutner.inference.labelled_page import LabelledPage
from layoutner.inference.result import field_page


def to_answer(
    document: str | None,
    pages: Sequence[LabelledPage],
    types: Sequence[str],
    rules: Rules,
    previews: Sequence[str | None] = (),
    words: bool = True,
) -> dict[str, Any]:
    """Fields, pages and words of one document, as JSON.

    Args:
        document: name of the document; None = that of its first page.
        pages: in their order.
        types: all entity types of the model.
        previews: one data URL per page, or empty.
        words: whether every word of every page is in it.
    """
    record = make_record([field_page(page) for page in pages], types, rules).to_dict()
    shown = []
    for number, page in enumerate(pages, 1):
        tree = page.to_dict()
        name = tree.pop("document")
        if not words:
            del tree["words"], tree["entities"]
        shown.append({"page": number, "name": name, **tree, **({"preview": previews[number - 1]} if previews else {})})
    if not words:
        for field in (field for fields in record["fields"].values() for field in fields):
            del field["words"]
    return {**record, "document": document or record["document"], "pages": shown}
