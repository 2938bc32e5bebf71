"""Hugging Face datasets."""

from pathlib import Path
from typing import Any

import pytest

datasets = pytest.importorskip("datasets", reason="pip install 'layoutner[hub]'")


NAMES = ["O", "B-HEADER", "I-HEADER", "B-ANSWER"]


def row(name: str = "f0", **more: Any) -> dict[str, Any]:
    boxes = [[10, 20, 30, 40], [30, 20, 50, 40], [500, 500, 1000, 1000]]
    return {"id": name, "words": ["Order", "date", "3.50"], "bboxes": boxes, "ner_tags": [1, 2, 3], **more}


def columns(tags: Any = None, **more: Any) -> Any:
    texts, boxes = datasets.List(datasets.Value("string")), datasets.List(datasets.List(datasets.Value("int64")))
    tags = tags or datasets.List(datasets.ClassLabel(names=NAMES))
    return datasets.Features(
        {"id": datasets.Value("string"), "words": texts, "bboxes": boxes, "ner_tags": tags, **more}
    )


def table(*rows: dict[str, Any], **more: Any) -> Any:
    known = columns(**more)
    return datasets.Dataset.from_list([{name: row.get(name) for name in known} for row in rows], features=known)


def parquet(path: Path, *rows: dict[str, Any], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table(*rows, **more).to_parquet(path)
    return path
