"""Read untrusted files, with a size limit and one-line errors."""

import json
import os
import unicodedata
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from layoutner.errors import DataError
from layoutner.files.encodings import NotUnicode, decode, decode_unicode, is_utf_16

SYSTEM_FILES = ("Thumbs.db", "desktop.ini", "__MACOSX")
CONVERT = "convert it, for instance with `iconv -f ENCODING -t UTF-8`"
# What code raises that expects a value to have another shape, such as a key or a number that is not there.
WRONG_SHAPE = (ArithmeticError, AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)
LARGEST_PAGE = 64 * 2**20  # maximum bytes of one page's text file; real ones have thousands


def printable(text: str) -> str:
    """The text with escapes ("\\x1b") for what a terminal would obey instead of showing it, and for lone surrogates.

    Such are control characters, except line feeds and tabs, and those that change the direction of writing.
    """
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode() if _obeyed(character) else character for character in text
    )


def _obeyed(character: str) -> bool:
    return character not in "\n\t" and (
        unicodedata.category(character) in ("Cc", "Cs")
        or "\u202a" <= character <= "\u202e"
        or "\u2066" <= character <= "\u2069"
    )


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is hidden or made by the operating system, such as ._a.json for a.json."""
    return path.name.startswith(".") or path.name in SYSTEM_FILES


def visible_files(folder: Path, suffixes: str | tuple[str, ...], hidden: list[Path]) -> list[Path]:
    """The files of a folder whose names end in one of the suffixes, in any letter case, sorted.

    Args:
        hidden: files for which `is_hidden` is true are left out and appended to this list.
    """
    found = sorted(file for file in folder.glob("*") if file.name.lower().endswith(suffixes))
    hidden += [file for file in found if is_hidden(file)]
    return [file for file in found if not is_hidden(file)]


def read_text(path: Path, largest: int = LARGEST_PAGE, notes: list[str] | None = None) -> str:
    """A file's text: UTF-8, or UTF-16 with a byte order mark. Line ends become line feeds.

    Args:
        largest: maximum size in bytes.
        notes: a list; if the file has another encoding that `decode` can determine, a note is appended to it. None:
            such a file is refused.

    Raises:
        DataError: the file is missing, not a regular file, not readable, too large or of unknown encoding.
    """
    content = read_bytes(path, largest)
    try:
        if notes is None:
            text = decode_unicode(content)
        else:
            text, note = decode(content)
            notes += [note] if note else []
    except NotUnicode as error:
        raise DataError(f"{path}: cannot be read: {error}; {CONVERT}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_bytes(path: Path, largest: int) -> bytes:
    """A file's bytes.

    Args:
        largest: maximum size in bytes.

    Raises:
        DataError: the file is missing, not a regular file, not readable or too large.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path}: cannot be read: {'not a file' if path.exists() else 'no such file'}")
        if (size := path.stat().st_size) > largest:
            raise DataError(f"{path}: cannot be read: its {size:,} bytes are more than {largest:,}")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file of any size, in UTF-8 or in UTF-16 with a byte order mark.

    Raises:
        DataError: it cannot be read or has another encoding.
    """
    try:
        with path.open("rb") as file:
            if is_utf_16(file.peek(2)[:2]):
                with TextIOWrapper(file, "utf-16", newline="\n") as lines:
                    yield from lines
                return
            offset = 0
            for line in file:
                text = decode_unicode(line, offset)
                yield text
                offset += len(line)
    except (NotUnicode, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}; {CONVERT}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def read_json(path: Path, largest: int = LARGEST_PAGE, notes: list[str] | None = None) -> Any:
    """Parse a JSON file.

    Args:
        largest, notes: see `read_text`.

    Raises:
        DataError: as `read_text`, or not JSON.
    """
    text = read_text(path, largest, notes)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None


def inside(folder: Path, name: str) -> Path:
    """The path `name` inside a data folder. Symbolic links are followed, because the folder belongs to the user.

    Raises:
        DataError: not a valid path, or it leads out of the folder, as an absolute path or by "..".
    """
    path = Path(os.path.normpath(name))  # remove "..", which after a symbolic link would lead elsewhere
    if path.is_absolute():  # accept an absolute path into the folder
        roots = (folder.absolute(), folder.resolve())
        path = next((path.relative_to(root) for root in roots if path.is_relative_to(root)), path)
    if path.is_absolute() or path.parts[:1] == ("..",):
        raise DataError(f"{name!r} leads out of {folder}")
    try:
        (folder / path).stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # reported when the file is opened
    except (OSError, ValueError) as error:  # NUL, lone surrogate, too long, symbolic link loop
        raise DataError(f"{name!r} is not a valid path: {error}") from None
    return folder / path
