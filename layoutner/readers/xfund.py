"""XFUND: one JSON with all forms per language and split, {lang}.{train|val}.json; boxes in pixels."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layoutner.errors import DataError, NoSplitError
from layoutner.files.image import find_page
from layoutner.files.text import inside, read_json, visible_files
from layoutner.pages.image_lookup import ImageLookup
from layoutner.pages.page import Page, Problem, Word, encoding_notes, hidden_notes
from layoutner.readers.funsd import IMAGES, entity_words

SPLITS = {"train": "train", "eval": "val", "test": "test"}  # XFUND itself has no test split
LARGEST_FILE = 512 * 2**20  # maximum bytes; files of XFUND have up to about 10 MiB


def read(path: Path, role: str) -> Iterator[Page | Problem]:
    """Read an XFUND folder or one of its files.

    Page images are searched next to the JSON file, in a folder with its name (zh.train/ for zh.train.json), and in
    images/, image/ and img/. A page without an image is still read.

    Args:
        path: a folder, of which the files of all languages for the role are read, or one .json file.
        role: "train", "eval" (the split val) or "test".

    Raises:
        DataError: nothing to read there.
    """
    hidden: list[Path] = []
    files = [path] if path.suffix == ".json" else _files(path, role, hidden)
    yield from hidden_notes(hidden)
    lookup = ImageLookup(path)
    for file in files:
        notes: list[str] = []
        try:
            documents = _documents(file, notes)
        except DataError as error:
            yield Problem(file.name, "unreadable", str(error))
            continue
        yield from encoding_notes(file.name, notes)
        for number, document in enumerate(documents):
            source = f"{file.name} document {number}"
            try:
                yield _page(document, source, file, lookup)
            except DataError as error:
                yield Problem(source, "unreadable", str(error))
    yield from lookup.notes()


def _files(path: Path, role: str, hidden: list[Path]) -> list[Path]:
    files = visible_files(path, f".{SPLITS[role]}.json", hidden)
    if not files:
        endings = tuple(f".{split}.json" for split in SPLITS.values())
        there = [file.name for file in visible_files(path, endings, [])]
        if not there:
            raise DataError(f"{path}: not an XFUND folder: it holds no file such as zh.train.json or zh.val.json")
        raise NoSplitError(
            f"{path}: holds {', '.join(there)}, none of them for data.{role}; give the full path of one of them"
            + (", or give a fraction of the training documents such as 0.1" if role == "eval" else "")
        )
    return files


def _documents(file: Path, notes: list[str]) -> list[Any]:
    content = read_json(file, LARGEST_FILE, notes)
    documents = content.get("documents") if isinstance(content, dict) else None
    if not isinstance(documents, list):
        raise DataError(f'{file}: not an XFUND file: it has no list "documents"')
    return documents


def _page(document: Any, source: str, file: Path, lookup: ImageLookup) -> Page:
    words: list[Word] = []
    try:
        name, image = document["id"], document["img"]
        page_size = (image["width"], image["height"])
        if not (isinstance(name, str) and isinstance(image["fname"], str)):
            raise TypeError("id and fname must be text")
        for number, entity in enumerate(document["document"]):
            words.extend(entity_words(entity, number))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"not an XFUND document: {type(error).__name__}: {error}") from None
    found = _image(file, image["fname"], lookup)
    # Find an unreadable image now, not in the middle of a run.
    place, seen = (None, None) if found is None else find_page(found)
    return Page(source, name, words, page_size, place, image_size=seen)


def _image(file: Path, name: str, lookup: ImageLookup) -> Path | None:
    """The image with this name, which may contain a folder; else one with the same name but another suffix."""
    folders = [file.parent, file.with_suffix(""), *(file.parent / folder for folder in IMAGES)]
    places = [inside(folder, name) for folder in folders]
    exact = next((place for place in places if place.is_file()), None)
    found = lookup.find(Path(name).stem, [place.parent for place in (places if exact is None else [exact])])
    return exact or found
