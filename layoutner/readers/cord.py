"""CORD versions 1 and 2: one JSON per receipt in json/, its image in image/; words as quadrilaterals, in lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layoutner.errors import DataError
from layoutner.files.image import find_page
from layoutner.files.text import read_json, visible_files
from layoutner.pages.image_lookup import ImageLookup, image_folders
from layoutner.pages.page import Page, Problem, Word, encoding_notes, hidden_notes
from layoutner.readers.splits import split_folder

IMAGES = ("image", "images", "img")
SPLITS = {"train": "train", "eval": "dev", "test": "test"}


def read(path: Path, role: str) -> Iterator[Page | Problem]:
    """Read a CORD folder, one of its splits, or one file.

    Each line of `valid_line` is an entity and a segment. The entity's type is the category in capitals (MENU.NM); the
    category "other" is O, and lines without a category are unlabelled. The words keep the order of the file.

    Args:
        path: a folder with train/, dev/ and test/ (the role selects one), a folder with json/ and optionally image/ (or
            images/, img/), a folder of .json files, or one .json file.
        role: "train", "eval" or "test".

    Raises:
        DataError: nothing to read there.
    """
    hidden: list[Path] = []
    files = [path] if path.suffix == ".json" else _files(path, role, hidden)
    yield from hidden_notes(hidden)
    lookup = ImageLookup(path)
    for file in files:
        try:
            yield _receipt(file, lookup)
        except DataError as error:
            yield Problem(file.name, "unreadable", str(error))
    yield from lookup.notes()


def _files(path: Path, role: str, hidden: list[Path]) -> list[Path]:
    if files := visible_files(path, ".json", hidden):
        return files
    folder = split_folder(path, role, SPLITS, "json") / "json"
    if not (files := visible_files(folder, ".json", hidden)):
        raise DataError(f"{folder}: holds no .json file")
    return files


def _receipt(file: Path, lookup: ImageLookup) -> Page:
    words: list[Word] = []
    notes: list[str] = []
    try:
        receipt = read_json(file, notes=notes)
        if "ground_truth" in receipt:  # a row of the Hugging Face dataset, which contains the same JSON as a string
            receipt = json.loads(receipt["ground_truth"])
        found = lookup.find(file.stem, image_folders(file, IMAGES))
        image, seen = (None, None) if found is None else find_page(found)
        try:
            stated = (receipt["meta"]["image_size"]["width"], receipt["meta"]["image_size"]["height"])
        except (KeyError, TypeError):
            if seen is None:
                raise
            stated = seen
        for number, line in enumerate(receipt["valid_line"]):
            words.extend(_line(line, number))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise DataError(f"{file}: not a CORD receipt: {type(error).__name__}: {error}") from None
    return Page(
        file.name,
        file.stem,
        words,
        seen or stated,
        image,
        notes=encoding_notes(file.name, notes),
        image_size=seen,
        stated_size=stated,
    )


def _line(line: Any, number: int) -> list[Word]:
    category = line.get("category")
    if category is not None and not (isinstance(category, str) and category.strip() and category.isprintable()):
        raise TypeError(f"category {str(category)[:80]!r} is not a name")
    words: list[Word] = []
    for word in line["words"]:
        quad = word["quad"]
        xs, ys = [quad[f"x{corner}"] for corner in (1, 2, 3, 4)], [quad[f"y{corner}"] for corner in (1, 2, 3, 4)]
        tag = category
        if category is not None:
            tag = "O" if category.lower() == "other" else f"{'I' if words else 'B'}-{category.upper()}"
        words.append(Word(word["text"], (min(xs), min(ys), max(xs), max(ys)), tag, number))
    return words
