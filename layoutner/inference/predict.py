"""Word labels of documents as JSON, one document a line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layoutner.config.errors import UserError
from layoutner.data.document import Document
from layoutner.data.labels import to_spans
from layoutner.inference.labeller import Labeller
from layoutner.training.evaluate import WordLabel


def predict(labeller: Labeller, documents: Sequence[Document], batch_windows: int) -> list[dict[str, Any]] | None:
    """Label documents: one object a document on rank 0, None elsewhere.

    Every word has exactly one label and its probability; entities carry the box around their words.
    """
    labelled = labeller.label(documents, batch_windows)
    if labelled is None:
        return None
    tags = labeller.labels.tags
    return [_page(document, answers, tags) for document, answers in zip(documents, labelled, strict=True)]


def _page(document: Document, answers: Sequence[WordLabel], tags: list[str]) -> dict[str, Any]:
    names = [tags[answer.label] for answer in answers]
    entities = []
    for kind, start, end in to_spans(names):
        boxes = document.boxes[start:end]
        entities.append(
            {
                "type": kind,
                "text": " ".join(document.words[start:end]),
                "box": [
                    *(min(b[side] for b in boxes) for side in (0, 1)),
                    *(max(b[side] for b in boxes) for side in (2, 3)),
                ],
                "words": [start, end],
            }
        )
    return {
        "document": document.name,
        "page_size": list(document.page_size),
        "words": [
            {"text": word, "box": list(box), "label": name, "probability": round(answer.probability, 6)}
            for word, box, name, answer in zip(document.words, document.boxes, names, answers, strict=True)
        ],
        "entities": entities,
    }


def write_jsonl(path: Path, pages: Sequence[dict[str, Any]]) -> None:
    """Write all pages, or nothing.

    Raises:
        UserError: the file cannot be written.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it")
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            for page in pages:
                file.write(json.dumps(page, ensure_ascii=False) + "\n")
        partial.rename(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error}") from None
