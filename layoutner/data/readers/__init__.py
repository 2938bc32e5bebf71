"""One file a format. A reader turns a path and a role into pages, one after the other.

A reader yields a Page, or a Problem for a page that cannot be read, and goes on behind it. It raises UserError only
where there is nothing to go on with: not such a folder, no such split. A new format is one file here and one line.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

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


def demand_packages(format: str | None) -> None:
    """Refuse a format where what reads it is not installed.

    Raises:
        UserError: a package or a program is missing.
    """
    if format == "hub":
        hub.demand_packages()
    elif format == "ocr":
        ocr.demand_packages()
