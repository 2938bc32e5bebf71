"""Page images without words: tesseract reads the words, through pytesseract (`pip install 'layoutner[ocr]'`).

Tesseract runs with its default options, so the language is English. Pages are rotated by their EXIF orientation first.
"""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from layoutner.errors import DataError, SettingsError, first_line
from layoutner.files.image import SUFFIXES, page_images, read_image
from layoutner.files.text import visible_files
from layoutner.pages.page import Page, Problem, Word, hidden_notes
from layoutner.progress import counted
from layoutner.settings.data import MAX_IMAGE_MIB

LONGEST_PAGE = 300  # timeout of tesseract per page in seconds; a page takes a few seconds


def require_packages() -> None:
    """Check that pytesseract and tesseract are installed, without importing them.

    Raises:
        SettingsError: pytesseract or tesseract is not installed.
    """
    lacks = []
    if find_spec("pytesseract") is None:
        lacks.append("the package pytesseract: pip install 'layoutner[ocr]'")
    if shutil.which("tesseract") is None:
        lacks.append(
            "the program tesseract, which is not on PATH and which pip does not install: "
            "apt-get install tesseract-ocr, or brew install tesseract"
        )
    if lacks:
        raise SettingsError(f"data.format = ocr needs {'; and '.join(lacks)}")


def read(path: Path, role: str, max_image_mib: int = MAX_IMAGE_MIB) -> Iterator[Page | Problem]:
    """Read the words of page images by OCR. The words are unlabelled; words of a line share a segment.

    A multi-page TIFF gives several pages.

    Args:
        path: an image, or a folder of images.
        role: ignored.
        max_image_mib: data.max_image_mib.

    Raises:
        SettingsError: pytesseract or tesseract is not installed.
        DataError: the folder contains no image.
    """
    require_packages()
    import pytesseract

    hidden: list[Path] = []
    files = _files(path, hidden) if path.is_dir() else [path]
    yield from hidden_notes(hidden)
    for file in counted(files, "reading their words by OCR", len(files), "images"):
        try:
            images = page_images(file)
        except DataError as error:
            yield Problem(file.name, "unreadable", str(error))
            continue
        for number, image in enumerate(images, 1):
            of_several = len(images) > 1
            source = f"{file.name} page {number}" if of_several else file.name
            try:
                picture = read_image(image, max_image_mib)
                words = _words(picture, pytesseract)
            except DataError as error:
                yield Problem(source, "unreadable", str(error))
            else:
                yield Page(source, f"{file.stem}-{number}" if of_several else file.stem, words, picture.size, image)


def _files(folder: Path, hidden: list[Path]) -> list[Path]:
    files = [file for file in visible_files(folder, SUFFIXES, hidden) if file.is_file()]
    if not files:
        raise DataError(f"{folder}: holds no image ({', '.join(SUFFIXES)})")
    return files


def _words(picture: Image.Image, pytesseract: Any) -> list[Word]:
    picture.format = None  # pass it to tesseract as PNG, without a second JPEG compression
    try:
        data = pytesseract.image_to_data(picture, output_type=pytesseract.Output.DICT, timeout=LONGEST_PAGE)
    except Exception as error:  # errors of tesseract, of its output or of its language files
        raise DataError(first_line(error)) from None
    lines: dict[tuple[int, int, int], int] = {}
    words = []
    keys = ("text", "conf", "left", "top", "width", "height", "block_num", "par_num", "line_num")
    for text, confidence, left, top, width, height, *line in zip(*(data.get(key, ()) for key in keys), strict=True):
        # Rows for blocks, paragraphs and lines have confidence -1.
        if confidence >= 0 and text.strip():
            segment = lines.setdefault((line[0], line[1], line[2]), len(lines))
            words.append(Word(text, (left, top, left + width, top + height), None, segment))
    return words
