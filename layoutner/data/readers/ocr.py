"""Page images without words: tesseract reads the words, through pytesseract (`pip install 'layoutner[ocr]'`).

Tesseract runs with its own defaults: the language is English. Pages are read as their pixels are stored; a photo that
only its EXIF note turns upright has to be turned before.
"""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from layoutner.config.errors import UserError, first_line
from layoutner.data.files import IMAGE_FORMATS, image_size
from layoutner.data.page import Page, Problem, Word

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
LONGEST_PAGE = 300  # seconds until tesseract is stopped; a page takes a few


def demand_packages() -> None:
    """Refuse the format where what reads it is not installed; looks for it, and does not load it.

    Raises:
        UserError: pytesseract or tesseract is not installed.
    """
    if find_spec("pytesseract") is None:
        what = "data.format = ocr needs the package pytesseract and the program tesseract"
        raise UserError(f"{what}: pip install 'layoutner[ocr]' and apt-get install tesseract-ocr")
    if shutil.which("tesseract") is None:
        raise UserError(
            "data.format = ocr needs the program tesseract, and there is none on PATH: "
            "apt-get install tesseract-ocr, or brew install tesseract"
        )


def read(path: Path, role: str) -> Iterator[Page | Problem]:
    """Read the words of page images, none of them labelled; words of one line share a segment.

    A TIFF of several pages gives a page each, without an image: the file has no place for one page of it.

    Args:
        path: an image, or a folder of images.
        role: of no matter.

    Raises:
        UserError: pytesseract or tesseract is not installed, or the folder holds no image.
    """
    demand_packages()
    import pytesseract

    for file in _files(path) if path.is_dir() else [path]:
        try:
            image_size(file)
            yield from _pages(file, pytesseract)
        except UserError as error:
            yield Problem(file.name, "unreadable", str(error))


def _files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise UserError(f"{folder}: holds no image ({', '.join(SUFFIXES)})")
    return files


def _pages(file: Path, pytesseract: Any) -> Iterator[Page | Problem]:
    """The pages of one file. Beyond its header, a broken image may make Pillow raise nearly anything."""
    try:
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            # A photo may hold a preview, and a GIF may move; only in a TIFF is a second picture a second page.
            frames = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
            for number in range(frames):
                source, name = file.name, file.stem
                if frames > 1:
                    source, name = f"{source} page {number + 1}", f"{name}-{number + 1}"
                try:
                    image.seek(number)
                    words = _words(image, pytesseract)
                except Exception as error:
                    yield Problem(source, "unreadable", f"{file}: {first_line(error)}")
                else:
                    yield Page(source, name, words, image.size, file if frames == 1 else None)
    except Exception as error:
        raise UserError(f"{file}: {first_line(error)}") from None


def _words(image: Image.Image, pytesseract: Any) -> list[Word]:
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or 0):
        raise UserError(f"a page of {image.width} x {image.height} pixels is taken for a decompression bomb")
    if image.mode in ("1", "L", "RGB", "I;16"):
        page = image.copy()  # a copy has no file format, and so goes to tesseract as PNG
    else:
        # pytesseract lays what is transparent on white.
        clear = "A" in image.getbands() or "transparency" in image.info
        page = image.convert("RGBA" if clear else "RGB")
    data = pytesseract.image_to_data(page, output_type=pytesseract.Output.DICT, timeout=LONGEST_PAGE)
    lines: dict[tuple[int, int, int], int] = {}
    words = []
    keys = ("text", "conf", "left", "top", "width", "height", "block_num", "par_num", "line_num")
    for text, confidence, left, top, width, height, *line in zip(*(data.get(key, ()) for key in keys), strict=True):
        # Blocks, paragraphs and lines have rows of their own, with confidence -1.
        if confidence >= 0 and text.strip():
            segment = lines.setdefault((line[0], line[1], line[2]), len(lines))
            words.append(Word(text, (left, top, left + width, top + height), None, segment))
    return words
