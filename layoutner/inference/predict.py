"""Word labels of documents as JSON objects, one a page."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from layoutner.data.document import Box, Document, union
from layoutner.data.labels import to_spans
from layoutner.training.evaluate import WordLabel


def to_page(document: Document, answers: Sequence[WordLabel], tags: list[str], folder: Path | None) -> dict[str, Any]:
    """The object of a labelled page: every word with its label and probability, and the entities they make.

    Args:
        document: the page.
        answers: one a word.
        tags: id -> tag.
        folder: where the object will lie; an image in it is named, relative to it. None: no image is named.
    """
    names = [tags[answer.label] for answer in answers]
    entities = [
        {
            "type": kind,
            "text": " ".join(document.words[start:end]),
            "box": list(_around(document.boxes[start:end])),
            "words": [start, end],
        }
        for kind, start, end in to_spans(names)
    ]
    given = document.segments
    segments: list[dict[str, int]] = [{}] * len(names) if given is None else [{"segment": number} for number in given]
    return {
        "document": document.name,
        "page_size": list(document.page_size),
        **_image(document.image, folder),
        "words": [
            {"text": word, "box": list(box), **segment, "label": name, "probability": round(answer.probability, 6)}
            for word, box, segment, name, answer in zip(
                document.words, document.boxes, segments, names, answers, strict=True
            )
        ],
        "entities": entities,
    }


def _around(boxes: Sequence[Box]) -> Box:
    return reduce(union, boxes)


def _image(image: Path | None, folder: Path | None) -> dict[str, str]:
    """{"image": name}, where a reader of the folder may open it."""
    if image is None or folder is None:
        return {}
    image, folder = image.resolve(), folder.resolve()
    return {"image": image.relative_to(folder).as_posix()} if image.is_relative_to(folder) else {}
