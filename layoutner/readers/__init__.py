"""One file a format. A reader turns a path and a role into pages, one after the other.

A reader yields a Page, or a Problem for a page that cannot be read, and goes on behind it. A Problem that is not fatal
is a note on the files as a whole, and no page. A reader raises DataError only where there is nothing to go on with: not
such a folder, no such split. A new format is one file here and one line.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from layoutner.errors import DataError, NoSplitError
from layoutner.pages.page import Page, Problem
from layoutner.readers import cord, funsd, hub, jsonl, ocr, sroie, unilm, xfund
from layoutner.readers.foreign import Kind, recognise
from layoutner.settings.data import DataSettings

ROLES = ("train", "eval", "test")

Reader = Callable[[Path, str], Iterator[Page | Problem]]

MOST_HELD = 100  # pages that cannot be read until the files themselves are looked at

READERS: dict[str, Reader] = {
    "funsd": funsd.read,
    "unilm": unilm.read,
    "cord": cord.read,
    "sroie": sroie.read,
    "xfund": xfund.read,
    "jsonl": jsonl.read,
    "hub": hub.read,
    "ocr": ocr.read,
}


def read_pages(settings: DataSettings, path: Path, role: str) -> Iterator[Page | Problem]:
    """What the format's reader yields. If nothing of it is a page, the files may be of another kind, and are looked at.

    Raises:
        DataError, SettingsError: as the reader, or the path holds another kind of file, which the message names.
    """
    format = settings.format
    held: list[Problem] = []
    found = path == jsonl.STDIN  # what is read is of the format, or cannot be looked at
    try:
        for page in _read(settings, path, role):
            if found:
                yield page
            elif isinstance(page, Problem) and len(held) < MOST_HELD:
                held.append(page)
            else:
                found = True
                if isinstance(page, Problem):
                    _refuse_another_kind(format, path, held)
                yield from held
                yield page
    except NoSplitError:
        raise
    except DataError as error:
        if found:
            raise
        if any(problem.fatal for problem in held):
            yield from held
            raise
        kind = _another_kind(format, path)
        raise DataError(f"{error}; {kind}" if kind else str(error)) from None
    if not found:
        _refuse_another_kind(format, path, held)
        yield from held


def _read(settings: DataSettings, path: Path, role: str) -> Iterator[Page | Problem]:
    if settings.format == "ocr":  # alone it unpacks images
        return ocr.read(path, role, settings.max_image_mib)
    return READERS[settings.format](path, role)


def _refuse_another_kind(format: str, path: Path, problems: list[Problem]) -> None:
    first = next((problem for problem in problems if problem.fatal), None)
    # Images and tables may stand beside pages of the format that cannot be read for another reason.
    if first and (kind := _another_kind(format, path)) and not (kind.weak and path.is_dir()):
        raise DataError(f"{kind} (read as {format}: {first})")


def _another_kind(format: str, path: Path) -> Kind | None:
    kind = recognise(path)
    return None if kind is None or kind.format == format else kind


def require_packages(format: str | None) -> None:
    """Refuse a format where what reads it is not installed.

    Raises:
        SettingsError: a package or a program is missing.
    """
    if format == "hub":
        hub.require_packages()
    elif format == "ocr":
        ocr.require_packages()
