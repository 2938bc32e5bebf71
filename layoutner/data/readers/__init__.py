"""One file a format. A reader turns a path and a role into pages, one after the other.

A reader yields a Page, or a Problem for a page that cannot be read, and goes on behind it. A Problem that is not fatal
is a note on the files as a whole, and no page. A reader raises UserError only where there is nothing to go on with: not
such a folder, no such split. A new format is one file here and one line.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from layoutner.config.data_settings import DataSettings
from layoutner.data.page import Page, Problem
from layoutner.data.readers import cord, funsd, hub, jsonl, ocr, sroie, unilm, xfund

ROLES = ("train", "eval", "test")

Reader = Callable[[Path, str], Iterator[Page | Problem]]

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
    """What the reader of data.format yields for a path and a role."""
    if settings.format == "ocr":  # alone it unpacks images
        return ocr.read(path, role, settings.max_image_mib)
    return READERS[settings.format](path, role)
