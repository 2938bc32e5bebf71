"""Files that other people made: read whole within a limit, or refused in one line."""

import json
import os
from pathlib import Path
from typing import Any

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


def inside(folder: Path, name: str) -> Path:
    """The path `name` relative to a data folder. Symbolic links in the folder are followed: it is the user's own.

    Raises:
        UserError: it is no path, or leads out of the folder, absolute or by "..".
    """
    path = Path(os.path.normpath(name))  # so that no ".." is left, which behind a link would lead elsewhere
    if path.is_absolute():  # a path into the folder is as good as one relative to it
        roots = (folder.absolute(), folder.resolve())
        path = next((path.relative_to(root) for root in roots if path.is_relative_to(root)), path)
    if path.is_absolute() or path.parts[:1] == ("..",):
        raise UserError(f"{name!r} leads out of {folder}")
    try:
        (folder / path).stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # which is told when it is opened
    except (OSError, ValueError) as error:  # NUL, half a character, too long, a circle of links
        raise UserError(f"{name!r} is no path: {error}") from None
    return folder / path
