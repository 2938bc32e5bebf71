"""Six invoices as people have them: four PDFs with text, one of them of three pages, two scans, and a tool's export."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ImageFont

from tests.builders.pdfs import Sheet, box_of, scan, text, write_pdf

SIZE, LEADING, LEFT, TOP = 14, 30, 43.2, 720  # of the text, in points
WIDTH, HEIGHT = 612, 792  # of a page, in points
LETTERS = 46  # size of the letters of a scan, in pixels at 200 dpi

Line = tuple[tuple[str, str | None], ...]  # texts, each with its type if it is a field


@dataclass(frozen=True)
class Invoice:
    """An invoice and the values that are to be found on it."""

    name: str
    vendor: str
    number: str
    date: tuple[str, str]  # as printed, and in ISO 8601
    total: tuple[str, str]  # as printed, and as a decimal number
    scanned: bool = False
    pages: int = 1

    def lines(self) -> list[list[Line]]:
        """The lines of each page."""
        head: list[Line] = [
            ((self.vendor, "VENDOR"),),
            (("INVOICE NO", None), (self.number, "NUMBER")),
            (("DATE", None), (self.date[0], "DATE")),
        ]
        items: list[Line] = [(("BRASS WHEEL 12 PIECES", None),), (("PAPER A4 3 BOXES", None),)]
        foot: list[Line] = [(("TOTAL", None), (self.total[0], "TOTAL"))]
        if self.pages == 1:
            return [head + items + foot]
        return [head, *[items] * (self.pages - 2), foot]


INVOICES = (
    Invoice("invoice-1", "KELLER SUPPLY", "4711", ("12 MAR 2025", "2025-03-12"), ("1,234.50", "1234.50")),
    Invoice("invoice-2", "NORTH TOOLS", "4712", ("3 APR 2025", "2025-04-03"), ("88.00", "88.00")),
    Invoice("invoice-3", "MILL AND SON", "4720", ("28 MAY 2025", "2025-05-28"), ("912.75", "912.75"), pages=3),
    Invoice("invoice-4", "PETERS PAPER", "4733", ("9 JUNE 2025", "2025-06-09"), ("45.10", "45.10")),
    Invoice("scan-1", "HARBOUR FOODS", "5120", ("17 JULY 2025", "2025-07-17"), ("310.20", "310.20"), scanned=True),
    Invoice("scan-2", "UNION GLASS", "5131", ("30 AUG 2025", "2025-08-30"), ("2,048.00", "2048.00"), scanned=True),
)
COLUMNS = ("VENDOR", "NUMBER", "DATE", "TOTAL")


def values(invoice: Invoice) -> dict[str, str]:
    """Column -> the value of an invoice."""
    return dict(zip(COLUMNS, (invoice.vendor, invoice.number, invoice.date[1], invoice.total[1]), strict=True))


def write_invoices(folder: Path) -> None:
    """Write PDFs to FOLDER/invoices, and to FOLDER/marked.json what Label Studio exports for their page images."""
    tasks = []
    for invoice in INVOICES:
        pages = invoice.lines()
        sheets = [_sheet(lines, invoice.scanned) for lines in pages]
        write_pdf(folder / "invoices" / f"{invoice.name}.pdf", *sheets)
        for number, lines in enumerate(pages, 1):
            image = invoice.name if len(pages) == 1 else f"{invoice.name}-{number}"
            tasks.append(_task(len(tasks) + 1, image, list(_regions(lines, invoice.scanned))))
    (folder / "marked.json").write_text(json.dumps(tasks, indent=1), encoding="utf-8")


def _sheet(lines: list[Line], scanned: bool) -> Sheet:
    joined = [" ".join(part for part, _ in line) for line in lines]
    if scanned:
        return scan(*joined, size=(WIDTH, HEIGHT), letters=LETTERS)
    return Sheet(b"".join(text(LEFT, TOP - LEADING * n, line, SIZE) for n, line in enumerate(joined)), (WIDTH, HEIGHT))


def _regions(lines: list[Line], scanned: bool) -> Iterator[tuple[str, tuple[float, float, float, float]]]:
    """(type, box in percent of the page) of each field."""
    for number, line in enumerate(lines):
        before = ""
        for part, kind in line:
            if kind is not None:
                yield kind, _scanned_box(number, before, part) if scanned else _printed_box(number, before, part)
            before += f"{part} "


def _printed_box(number: int, before: str, part: str) -> tuple[float, float, float, float]:
    x = LEFT + box_of(0, 0, before, SIZE, HEIGHT)[2]
    box = box_of(x, TOP - LEADING * number, part, SIZE, HEIGHT)
    return _percent(box, WIDTH, HEIGHT)


def _scanned_box(number: int, before: str, part: str) -> tuple[float, float, float, float]:
    font = ImageFont.load_default(LETTERS)
    left, top = 120 + font.getlength(before), 120 + 100 * number
    return _percent((left, top, left + font.getlength(part), top + 1.2 * LETTERS), WIDTH / 72 * 200, HEIGHT / 72 * 200)


def _percent(box: tuple[float, ...], width: float, height: float) -> tuple[float, float, float, float]:
    """Left, top, width, height in percent, a little larger, as people draw it."""
    margin = width / 200
    x0, y0, x1, y1 = box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin
    return 100 * x0 / width, 100 * y0 / height, 100 * (x1 - x0) / width, 100 * (y1 - y0) / height


def _task(number: int, image: str, regions: list[tuple[str, tuple[float, float, float, float]]]) -> dict[str, Any]:
    result = [
        {
            "id": f"r{number}-{index}",
            "from_name": "label",
            "to_name": "image",
            "type": "rectanglelabels",
            "original_width": 1700,
            "original_height": 2200,
            "image_rotation": 0,
            "value": {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": [kind]},
        }
        for index, (kind, (x, y, width, height)) in enumerate(regions)
    ]
    return {
        "id": number,
        "annotations": [{"id": number, "completed_by": 1, "was_cancelled": False, "result": result}],
        "data": {"image": f"/data/upload/1/0a1b2c{number:02x}-{image}.png"},
    }
