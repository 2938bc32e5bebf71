"""FUNSD: one JSON per form in annotations/, its image in images/; boxes in pixels, words grouped by entity."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layoutner.errors import DataError
from layoutner.files.image import find_page
from layoutner.files.text import read_json, visible_files
from layoutner.pages.image_lookup import ImageLookup, image_folders, missing_image
from layoutner.pages.page import Page, Problem, Word, encoding_notes, hidden_notes
from layoutner.readers.splits import split_folder

IMAGES = ("images", "image", "img")
SPLITS = {"train": "training_data", "test": "testing_data"}


def read(path: Path, role: str) -> Iterator[Page | Problem]:
    """Read a FUNSD folder, one of its splits, or one annotation file.

    Args:
        path: a folder with training_data/ and testing_data/ (the role selects one), a folder with
            annotations/ and images/ (or image/, img/), or one annotations/*.json.
        role: "train", "eval" or "test".

    Raises:
        DataError: nothing to read there.
    """
    hidden: list[Path] = []
    files = [path] if path.suffix == ".json" else _annotation_files(path, role, hidden)
    yield from hidden_notes(hidden)
    lookup = ImageLookup(path)
    for file in files:
        try:
            yield _read_form(file, lookup)
        except DataError as error:
            yield Problem(file.name, "unreadable", str(error))
    yield from lookup.notes()


def _annotation_files(path: Path, role: str, hidden: list[Path]) -> list[Path]:
    if not any((path / name / "annotations").is_dir() for name in ("", *SPLITS.values())):
        what = "it has neither annotations/ nor training_data/annotations/; data.format names other formats"
        raise DataError(f"{path}: not a FUNSD folder: {what}")
    folder = split_folder(path, role, SPLITS, "annotations")
    files = visible_files(folder / "annotations", ".json", hidden)
    if not files:
        raise DataError(f"{folder / 'annotations'}: holds no .json file")
    return files


def _read_form(file: Path, lookup: ImageLookup) -> Page:
    if (found := lookup.find(file.stem, image_folders(file, IMAGES))) is None:
        raise DataError(missing_image(file, IMAGES))
    image, page_size = find_page(found)
    words: list[Word] = []
    notes: list[str] = []
    try:
        for number, entity in enumerate(read_json(file, notes=notes)["form"]):
            words.extend(entity_words(entity, number))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"not a FUNSD annotation: {type(error).__name__}: {error}") from None
    return Page(file.name, file.stem, words, page_size, image, notes=encoding_notes(file.name, notes))


def entity_words(entity: Any, number: int) -> list[Word]:
    """The words of an entity. The label "other" is O; words of an entity without a label are unlabelled."""
    label = entity.get("label")
    if label is not None and not (isinstance(label, str) and label.strip()):
        raise TypeError(f"label {label!r} is not a name; expected text that is not blank")
    words: list[Word] = []
    for word in entity["words"]:
        x0, y0, x1, y1 = word["box"]
        tag = label
        if label is not None:
            tag = "O" if label.lower() == "other" else f"{'I' if words else 'B'}-{label.upper()}"
        words.append(Word(word["text"], (x0, y0, x1, y1), tag, number))
    return words
