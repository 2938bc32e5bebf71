"""Files that other people made: read whole within a limit, or refused in one line."""

import json
import os
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from layoutner.errors import DataError
from layoutner.files.encodings import NotUnicode, decode, decode_unicode, is_utf_16

SYSTEM_FILES = ("Thumbs.db", "desktop.ini", "__MACOSX")
CONVERT = "convert it, for instance with `iconv -f ENCODING -t UTF-8`"
LARGEST_PAGE = 64 * 2**20  # bytes of one page's text file; real ones take thousands


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is none of the user's, but of the system that copied it: ._a.json beside a.json."""
    return path.name.startswith(".") or path.name in SYSTEM_FILES


def visible_files(folder: Path, suffixes: str | tuple[str, ...], hidden: list[Path]) -> list[Path]:
    """The files of a folder whose names end in one of the suffixes, in any letter case, sorted.

    Args:
        hidden: a list to which those are added that `is_hidden` finds, which are left out.
    """
    found = sorted(file for file in folder.glob("*") if file.name.lower().endswith(suffixes))
    hidden += [file for file in found if is_hidden(file)]
    return [file for file in found if not is_hidden(file)]


def read_text(path: Path, largest: int = LARGEST_PAGE, notes: list[str] | None = None) -> str:
    """A file's text: UTF-8, or UTF-16 with a byte order mark. Line ends become line feeds.

    Args:
        largest: bytes from which on the file is taken for something else.
        notes: a list to which a sentence is added if the file is read in the only other encoding that makes sense; see
            `decode`. None: such a file is refused.

    Raises:
        DataError: missing, not a file, not readable, too large, of unknown encoding.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path}: cannot be read: {'not a file' if path.exists() else 'no such file'}")
        if (size := path.stat().st_size) > largest:
            raise DataError(f"{path}: cannot be read: its {size:,} bytes are more than {largest:,}")
        content = path.read_bytes()
        if notes is None:
            text = decode_unicode(content)
        else:
            text, note = decode(content)
            notes += [note] if note else []
    except NotUnicode as error:
        raise DataError(f"{path}: cannot be read: {error}; {CONVERT}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file of any length, or of a UTF-16 file with a byte order mark, one after the other.

    Raises:
        DataError: it cannot be read, or is of another encoding.
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
    """A JSON file's value.

    Args:
        largest, notes: as of `read_text`.

    Raises:
        DataError: as `read_text`, or not JSON.
    """
    text = read_text(path, largest, notes)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None


def inside(folder: Path, name: str) -> Path:
    """The path `name` relative to a data folder. Symbolic links in the folder are followed: it is the user's own.

    Raises:
        DataError: it is no path, or leads out of the folder, absolute or by "..".
    """
    path = Path(os.path.normpath(name))  # so that no ".." is left, which behind a link would lead elsewhere
    if path.is_absolute():  # a path into the folder is as good as one relative to it
        roots = (folder.absolute(), folder.resolve())
        path = next((path.relative_to(root) for root in roots if path.is_relative_to(root)), path)
    if path.is_absolute() or path.parts[:1] == ("..",):
        raise DataError(f"{name!r} leads out of {folder}")
    try:
        (folder / path).stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # which is told when it is opened
    except (OSError, ValueError) as error:  # NUL, half a character, too long, a circle of links
        raise DataError(f"{name!r} is no path: {error}") from None
    return folder / path
