"""FUNSD: one JSON a form under annotations/, its page under images/; words in pixels, grouped in entities."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from layoutner.config.errors import UserError, raise_gathered
from layoutner.data.document import Document, box_problem, read_text, scale_box
from layoutner.data.labels import Span, to_tags

SPLITS = {"train": "training_data", "test": "testing_data"}


def read(path: Path, role: str) -> list[Document]:
    """Read a FUNSD folder, one of its splits, or one annotation file.

    Args:
        path: a folder with training_data/ and testing_data/ (the role picks one), a folder with
            annotations/ and images/, or one annotations/*.json.
        role: "train", "eval" or "test".

    Raises:
        UserError: nothing to read there, or all problems of all files, each with file and word.
    """
    files = [path] if path.suffix == ".json" else _annotation_files(path, role)
    documents, problems = [], []
    for file in files:
        try:
            documents.append(_read_form(file))
        except UserError as error:
            problems.extend(str(error).splitlines())
    raise_gathered(f"{len(problems)} problem(s) in {path}", problems)
    return documents


def _annotation_files(path: Path, role: str) -> list[Path]:
    folder = path
    if not (path / "annotations").is_dir():
        there = [name for name in SPLITS.values() if (path / name / "annotations").is_dir()]
        if not there:
            raise UserError(f"{path}: not a FUNSD folder: it has neither annotations/ nor training_data/annotations/")
        if SPLITS.get(role) not in there:
            raise UserError(
                f"{path}: holds {' and '.join(there)}, none of them for data.{role}; name one of them in full"
                + (", or give a fraction of the training documents such as 0.1" if role == "eval" else "")
            )
        folder = path / SPLITS[role]
    files = sorted((folder / "annotations").glob("*.json"))
    if not files:
        raise UserError(f"{folder / 'annotations'}: holds no .json file")
    return files


def _read_form(file: Path) -> Document:
    image = file.parent.parent / "images" / f"{file.stem}.png"
    try:
        with Image.open(image) as page:
            page_size = page.size
    except (OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{file.name}: page image {image}: {error}") from None
    try:
        entities = _entities(json.loads(read_text(file)))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file.name}: not a FUNSD annotation: {type(error).__name__}: {error}") from None
    words: list[str] = []
    boxes = []
    spans = []
    problems = []
    for label, entity_words in entities:
        start = len(words)
        for text, pixel_box in entity_words:
            box = scale_box(pixel_box, page_size)
            if problem := box_problem(box):
                problems.append(
                    f"{file.name}: word {len(words)} {text!r}: {problem}; {list(pixel_box)} pixels "
                    f"on a page of {page_size[0]} x {page_size[1]}"
                )
            words.append(text)
            boxes.append(box)
        if label is not None and label.lower() != "other" and len(words) > start:
            spans.append(Span(label.upper(), start, len(words)))
    labelled = {label is not None for label, entity_words in entities if entity_words}
    if len(labelled) > 1:
        problems.append(f"{file.name}: some entities have a label and some have none")
    if problems:
        raise UserError("\n".join(problems))
    tags = None if labelled == {False} else tuple(to_tags(spans, len(words), "BIO"))
    return Document(file.stem, tuple(words), tuple(boxes), tags, page_size, image)


def _entities(form: Any) -> list[tuple[str | None, list[tuple[str, tuple[float, float, float, float]]]]]:
    """(label or None, [(text, pixel box)]) of every entity; blank words are dropped."""
    entities = []
    for entity in form["form"]:
        words = []
        for word in entity["words"]:
            text, (x0, y0, x1, y1) = word["text"], (float(side) for side in word["box"])
            if not isinstance(text, str) or not all(abs(side) < 1e9 for side in (x0, y0, x1, y1)):
                raise TypeError(f"a word needs text and a box of four numbers, not {text!r} and {word['box']}")
            text.encode()  # half a character (a lone surrogate) is no text
            if text.strip():
                words.append((text, (x0, y0, x1, y1)))
        label = entity.get("label")
        if label is not None and not (isinstance(label, str) and label.strip()):
            raise TypeError(f"label {label!r} is not a name")
        entities.append((label, words))
    return entities
