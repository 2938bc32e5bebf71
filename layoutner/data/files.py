"""Files that other people made: read whole within a limit, or refused in one line."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from layoutner.config.errors import UserError

LARGEST_PAGE = 64 * 2**20  # bytes of one page's text file; real ones take thousands
# Of the many that Pillow knows; among the others are EPS, for which it starts another program.
IMAGE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")


def read_text(path: Path, largest: int = LARGEST_PAGE) -> str:
    """A UTF-8 file's text.

    Args:
        largest: bytes from which on the file is taken for something else.

    Raises:
        UserError: missing, not a file, not readable, too large, not UTF-8.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path}: cannot be read: {'not a file' if path.exists() else 'no such file'}")
        if (size := path.stat().st_size) > largest:
            raise UserError(f"{path}: cannot be read: its {size:,} bytes are more than {largest:,}")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read: {error}") from None


def read_json(path: Path, largest: int = LARGEST_PAGE) -> Any:
    """A JSON file's value.

    Raises:
        UserError: as `read_text`, or not JSON.
    """
    text = read_text(path, largest)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """An image of which only the header is read yet.

    Raises:
        UserError: missing, not an image, damaged as far as it is read, or so large that unpacking it would take the
            memory (a decompression bomb).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                yield image
    except Exception as error:  # whatever a decoder trips over in damaged bytes, there is no image to be had
        raise UserError(f"page image {path}: {error or type(error).__name__}") from None


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image in pixels, from its header.

    Raises:
        UserError: as `open_image`.
    """
    with open_image(path) as image:
        return image.size


def inside(folder: Path, name: str) -> Path:
    """The path `name` relative to a data folder.

    Raises:
        UserError: it is no path, or leads out of the folder.
    """
    path = folder / name
    try:
        outside = not path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:  # NUL, half a character, too long, a circle of links
        raise UserError(f"{name!r} is no path: {error}") from None
    if outside:
        raise UserError(f"{name!r} leads out of {folder}")
    return path
