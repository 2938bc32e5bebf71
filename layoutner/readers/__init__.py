"""Readers, one module per format. A reader yields the pages of a path and a role.

A reader yields a Page, or a fatal Problem for a page that cannot be read, and then continues with the next page. A
non-fatal Problem is a note on the files as a whole, not a page. A reader raises DataError only if it cannot continue,
for example because the folder or the split does not exist. To add a format, add a module here, or in ocr_results
if it is what an OCR engine writes, and a line to READERS.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from layoutner.errors import DataError, NoSplitError
from layoutner.ocr_results import alto, azure, doctr, google, hocr, page_xml, textract
from layoutner.pages.page import Page, Problem
from layoutner.readers import cord, funsd, hub, jsonl, scan, sroie, unilm, xfund
from layoutner.readers.foreign import Kind, recognise
from layoutner.scans import require_engine
from layoutner.settings.data import DataSettings
from layoutner.settings.ocr import OcrSettings

ROLES = ("train", "eval", "test")

Reader = Callable[[Path, str], Iterator[Page | Problem]]

MOST_HELD = 100  # after this many unreadable pages at the start, check whether the files have another format

READERS: dict[str, Reader] = {
    "funsd": funsd.read,
    "unilm": unilm.read,
    "cord": cord.read,
    "sroie": sroie.read,
    "xfund": xfund.read,
    "jsonl": jsonl.read,
    "hub": hub.read,
    "pdf": scan.read,
    "ocr": scan.read,
    "hocr": hocr.read,
    "alto": alto.read,
    "page-xml": page_xml.read,
    "textract": textract.read,
    "azure": azure.read,
    "google": google.read,
    "doctr": doctr.read,
}


def read_pages(settings: DataSettings, path: Path, role: str) -> Iterator[Page | Problem]:
    """Yield what the format's reader yields. If it yields no page, check whether the files have another format.

    Raises:
        DataError, SettingsError: as the reader, or the files have another format, which the message names.
    """
    format = settings.format
    held: list[Problem] = []
    found = path == jsonl.STDIN  # whether a page was read; standard input cannot be checked for another format
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
    if settings.format in ("pdf", "ocr"):  # the only reader that decodes images
        return scan.read(path, role, settings)
    return READERS[settings.format](path, role)


def _refuse_another_kind(format: str, path: Path, problems: list[Problem]) -> None:
    first = next((problem for problem in problems if problem.fatal), None)
    # In a folder, images or tables may be next to pages of the right format that cannot be read for another reason.
    if first and (kind := _another_kind(format, path)) and not (kind.weak and path.is_dir()):
        raise DataError(f"{kind} (read as {format}: {first})")


def _another_kind(format: str, path: Path) -> Kind | None:
    kind = recognise(path)
    return None if kind is None or kind.format == format or {kind.format, format} == {"pdf", "ocr"} else kind


def require_packages(format: str | None, ocr: OcrSettings) -> None:
    """Refuse a format whose reader always needs something that is not installed.

    Args:
        ocr: how words are read from pictures. A PDF may have none, so `pdf` refuses it at the first picture.

    Raises:
        SettingsError: a package or a program is missing.
    """
    if format == "hub":
        hub.require_packages()
    elif format == "ocr":
        require_engine(ocr)
