"""Files that other people made: read whole within a limit, or refused in one line."""

import json
import warnings
from pathlib import Path
from typing import Any

from PIL import Image

from layoutner.config.errors import UserError

LARGEST_PAGE = 64 * 2**20  # bytes of one page's text file; real ones take thousands


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
            raise UserError(f"{path}: cannot be read: {size / 2**20:.0f} MiB is more than {largest / 2**20:.0f} MiB")
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


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image in pixels, from its header.

    Raises:
        UserError: missing, not an image, or so large that unpacking it would take the memory (a decompression bomb).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"page image {path}: {error}") from None


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
