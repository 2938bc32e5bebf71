"""Files of OCR results: each has the pages of one document. What all formats share: names, images and errors."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from layoutner.errors import DataError
from layoutner.files.image import SUFFIXES, PageImage, find_page, page_images
from layoutner.files.text import WRONG_SHAPE, inside, visible_files
from layoutner.pages.image_lookup import ImageLookup, image_folders
from layoutner.pages.page import Page, PageSize, Problem, Word, encoding_notes, hidden_notes
from layoutner.settings.data import BoxUnit

IMAGES = ("images", "image", "img")
LARGEST_JSON = 256 * 2**20  # maximum bytes of a JSON file, which may contain the images of its pages
UNKNOWN_SIZE = (1000, 1000)  # page size if neither the file nor an image has it, and boxes are fractions of the page


class ResultPage(NamedTuple):
    """A page as its file has it."""

    words: list[Word]
    page_size: PageSize | None  # width, height; None if the file does not have it
    unit: BoxUnit = "pixels"
    image: str | None = None  # path or name of the page image in the file
    note: str = ""  # what was left out


Parse = Callable[[Path, list[str]], Sequence[ResultPage]]  # a file and a list for notes on its encoding -> its pages


def read_results(path: Path, suffixes: tuple[str, ...], what: str, parse: Parse) -> Iterator[Page | Problem]:
    """Read a file, or all files of a folder that end in one of the suffixes.

    A page has the name of its file; of several pages in a file each also has a number, and the file's name as group.
    Its image is the one that the file names, if it is inside the folder, else one with the name of the file.

    Args:
        suffixes: in lower case, the longest first.
        what: the format, with its article.
        parse: parses a file. What `WRONG_SHAPE` lists is reported as a file of another shape.

    Raises:
        DataError: the folder has no such file.
    """
    hidden: list[Path] = []
    files = visible_files(path, suffixes, hidden) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no file that ends in {' or '.join(suffixes)}")
    yield from hidden_notes(hidden)
    lookup = ImageLookup(path)
    for file in files:
        notes: list[str] = []
        try:
            results = parse(file, notes)
            if not results:
                raise DataError(f"{file}: {what} without a page")
            pages = [_page(file, suffixes, results, index, lookup) for index in range(len(results))]
        except DataError as error:
            yield Problem(file.name, "unreadable", str(error))
        except WRONG_SHAPE as error:
            yield Problem(file.name, "unreadable", f"{file}: not {what}: {type(error).__name__}: {str(error)[:200]}")
        else:
            yield from encoding_notes(file.name, notes)
            yield from pages
    yield from lookup.notes()


def _page(
    file: Path, suffixes: tuple[str, ...], results: Sequence[ResultPage], index: int, lookup: ImageLookup
) -> Page:
    result = results[index]
    stem = (
        file.name[: -len(next((one for one in suffixes if file.name.lower().endswith(one)), file.suffix))] or file.stem
    )
    of_several = len(results) > 1
    source = f"{file.name} page {index + 1}" if of_several else file.name
    image, seen = _image(file, stem, result.image, index, len(results), lookup)
    size = result.page_size or seen
    if size is None:
        if result.unit == "pixels":
            raise DataError(f"{file}: the size of page {index + 1} is not known: put its image next to the file")
        size = UNKNOWN_SIZE
    return Page(
        source,
        f"{stem}-{index + 1}" if of_several else stem,
        result.words,
        size,
        image,
        unit=result.unit,
        notes=(Problem(source, "text left out", result.note, fatal=False),) if result.note else (),
        group=stem if of_several else None,
        image_size=seen,
    )


def _image(
    file: Path, stem: str, named: str | None, index: int, count: int, lookup: ImageLookup
) -> tuple[PageImage, tuple[int, int]] | tuple[None, None]:
    """The image of a page and its size in pixels."""
    folders = image_folders(file, IMAGES)
    if named and (name := PurePosixPath(named.replace("\\", "/")).name):
        place = _named(file.parent, named) or lookup.find(PurePosixPath(name).stem, folders)
        if place is not None:
            return _frame(place, index, count, is_of_page=True)
    if count > 1 and (place := lookup.find(f"{stem}-{index + 1}", folders)) is not None:
        return _frame(place, index, count, is_of_page=True)
    stems = [stem]
    if Path(stem).suffix.lower() in (*SUFFIXES, ".pdf"):  # scan.png.json, the result for scan.png
        stems.append(Path(stem).stem)
    place = next((found for one in stems if (found := lookup.find(one, folders)) is not None), None)
    return (None, None) if place is None else _frame(place, index, count, is_of_page=count == 1)


def _named(folder: Path, name: str) -> Path | None:
    try:
        place = inside(folder, name)
    except DataError:
        return None
    return place if place.suffix.lower() in SUFFIXES and place.is_file() else None


def _frame(
    place: Path, index: int, count: int, is_of_page: bool
) -> tuple[PageImage, tuple[int, int]] | tuple[None, None]:
    """The page's part of an image file: its frame if there is one for each page, or the whole image of this page."""
    images = page_images(place)
    if len(images) == count:
        return find_page(place, images[index].frame)
    return find_page(place) if is_of_page and len(images) == 1 else (None, None)
