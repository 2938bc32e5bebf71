"""SROIE 2019: lines of a receipt in box/, its key values in entities/, its image in img/."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layoutner.errors import DataError
from layoutner.files.image import find_page
from layoutner.files.text import read_json, read_text, visible_files
from layoutner.pages.image_lookup import ImageLookup, image_folders
from layoutner.pages.key_values import RULES, find_values
from layoutner.pages.labels import Span, to_tags
from layoutner.pages.page import Page, PageSize, Problem, Word, encoding_notes, hidden_notes, written_size
from layoutner.pages.text_lines import cut_line
from layoutner.readers.splits import split_folder

IMAGES = ("img", "images", "image")
LINES = ("box", "bbox")  # names of the folder with the lines
VALUES = (("entities", (".txt", ".json")), ("key", (".json",)), ("labels", (".txt", ".json")))  # folders of key values
SPLITS = {"train": "train", "test": "test"}
SIZES = "page_sizes.tsv"
LARGEST_FILE = 2**16  # maximum bytes of a receipt's lines file and values file; real ones have up to 7,000


def read(path: Path, role: str) -> Iterator[Page | Problem]:
    """Read a SROIE folder, one of its splits, or the lines of one receipt.

    The box of a line is divided among its words in proportion to their characters, spaces included. The words keep the
    order of the file, and each line is a segment. Key values are searched among the words (see `find_values`); they
    become the entities COMPANY, DATE, ADDRESS and TOTAL, tagged in BIO. The notes of a page list the values that were
    not found, found only approximately, or missing from the values file. A receipt without a values file is unlabelled.

    Args:
        path: one of:
            - a folder with train/ and test/; the role selects one;
            - a folder with box/ (or bbox/) *.txt or *.csv, where each line has four corners (eight numbers) and the
              text; optionally with entities/ (or key/, labels/) *.txt or *.json, and images in img/ (or images/,
              image/). Receipts without an image need page_sizes.tsv (key, width, height), here or in the parent folder;
            - one file of box/.
        role: "train", "eval" or "test".

    Raises:
        DataError: nothing to read there, or page_sizes.tsv is broken.
    """
    hidden: list[Path] = []
    files = [path] if path.is_file() else _files(path, role, hidden)
    yield from hidden_notes(hidden)
    sizes = _sizes(files[0].parent.parent)
    lookup = ImageLookup(path)
    for file in files:
        try:
            yield _receipt(file, sizes, lookup)
        except DataError as error:
            yield Problem(file.name, "unreadable", str(error))
    yield from lookup.notes()


def _files(path: Path, role: str, hidden: list[Path]) -> list[Path]:
    places = [path, *(path / name for name in SPLITS.values())]
    lines = next((name for name in LINES if any((place / name).is_dir() for place in places)), LINES[0])
    folder = split_folder(path, role, SPLITS, lines) / lines
    files = visible_files(folder, (".txt", ".csv"), hidden)
    if not files:
        raise DataError(f"{folder}: holds no .txt and no .csv file")
    return files


def _sizes(folder: Path) -> dict[str, PageSize]:
    """Name of the receipt -> width and height of its page, from page_sizes.tsv."""
    file = next((place / SIZES for place in (folder, folder.parent) if (place / SIZES).is_file()), None)
    if file is None:
        return {}
    sizes: dict[str, PageSize] = {}
    for number, line in enumerate(read_text(file).splitlines()[1:], 2):
        try:
            key, width, height = line.split("\t")
            sizes[key] = written_size(f"{width} {height}")
        except ValueError:
            raise DataError(f"{file} line {number}: {line[:80]!r} is not key, width, height") from None
    return sizes


def _receipt(file: Path, sizes: dict[str, PageSize], lookup: ImageLookup) -> Page:
    folder, name = file.parent.parent, file.stem
    found = lookup.find(name, image_folders(file, IMAGES))
    if found is None and name not in sizes:
        raise DataError(f"{file}: the size of its page is not known: add img/{name}.jpg, or a line to {SIZES}")
    image, seen = (None, None) if found is None else find_page(found)
    page_size = seen or sizes[name]
    words: list[Word] = []
    encoding: list[str] = []
    for number, line in enumerate(read_text(file, LARGEST_FILE, encoding).split("\n")):
        if line.strip():
            words.extend(_words(line, number, file))
    notes: list[Problem] = []
    files = [folder / kind / f"{name}{suffix}" for kind, suffixes in VALUES for suffix in suffixes]
    values_file = next((each for each in files if each.is_file()), None)
    if values_file is not None:
        values_encoding: list[str] = []
        words, notes = _label(words, _values(values_file, values_encoding), file.name)
        notes += encoding_notes(values_file.name, values_encoding)
    notes += encoding_notes(file.name, encoding)
    stated = sizes.get(name)
    return Page(file.name, name, words, page_size, image, notes=tuple(notes), image_size=seen, stated_size=stated)


def _words(line: str, number: int, file: Path) -> Iterator[Word]:
    """The words of a line, each with its part of the line's box."""
    try:
        *corners, text = line.split(",", 8)
        xs, ys = [float(x) for x in corners[::2]], [float(y) for y in corners[1::2]]
        if len(corners) < 8:
            raise ValueError
    except ValueError:
        what = f"line {number + 1} is not eight corners and a text: {line[:80]!r}"
        raise DataError(f"{file}: {what}") from None
    for word, box in cut_line(text, (min(xs), min(ys), max(xs), max(ys))):
        yield Word(word, box, None, number)


def _values(file: Path, encoding: list[str]) -> dict[str, str]:
    try:
        values: Any = read_json(file, LARGEST_FILE, encoding)
        if not isinstance(values, dict):
            raise DataError(f"{file}: expected an object of key values, not {type(values).__name__}")
        if file.parent.name == "labels" and not RULES.keys() & values.keys():
            raise DataError(f"{file}: has none of the key values {', '.join(RULES)}")
    except DataError as error:
        if file.parent.name != "labels":
            raise
        # In other datasets, a folder named labels/ contains word or box labels in various formats.
        raise DataError(f"{error}; labels/ must hold the key values of receipts, like entities/") from None
    for key in RULES:
        if not isinstance(values.get(key, ""), str):
            raise DataError(f"{file}: {key} = {str(values[key])[:80]} is not text")
    return {key: values.get(key, "").strip() for key in RULES}


def _label(words: list[Word], values: dict[str, str], source: str) -> tuple[list[Word], list[Problem]]:
    """Tag the words with the key values, and note values that are missing, not found or only approximately found."""
    found = find_values(words, values)
    spans = [Span(key.upper(), match.start, match.end) for key, match in found.items()]
    notes: list[Problem] = []
    for key, value in values.items():
        if not value:
            notes.append(Problem(source, "value not given", f"{key} is missing or empty", fatal=False))
        elif key not in found:
            notes.append(Problem(source, "value not found", f"{key} {value!r} is not on the page", fatal=False))
        elif (match := found[key]).how == "approximate":
            text = " ".join(word.text for word in words[match.start : match.end])
            what = f"{key} {value!r} was taken to be {text!r}"
            notes.append(
                Problem(source, "value found approximately", what, match.start, words[match.start].text, fatal=False)
            )
    tags = to_tags(spans, len(words), "BIO")
    return [word._replace(tag=tag) for word, tag in zip(words, tags, strict=True)], notes
