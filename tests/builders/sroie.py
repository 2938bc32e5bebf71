"""SROIE receipts."""

import json
from pathlib import Path

from PIL import Image

SIZE = (400, 1000)


LINES = [
    "BOOK SHOP (JOHOR) SDN BHD",
    "NO.53 55,57 & 59, JALAN SAGU 18,",
    "81100 JOHOR BAHRU, JOHOR.",
    "DATE:25/12/2018 8:13",
    "SUB-TOTAL RM19.00",
    "TOTAL: RM9.00",
    "CASH 10.00",
]


VALUES = {
    "company": "Book Shop (JOHOR) Sdn. Bhd.",
    "date": "25/12/2018",
    "address": "NO.53 55,57 & 59, JALAN SAGU 18, 81100 JOHOR BAHRU, JOHOR",
    "total": "9.00",
}


def line(text: str, row: int, left: int = 20, right: int = 380) -> str:
    y0, y1 = 20 + 40 * row, 50 + 40 * row
    return f"{left},{y0},{right},{y0},{right},{y1},{left},{y1},{text}"


def receipt(
    folder: Path, lines: list[str] = LINES, values: object = VALUES, name: str = "a", image: bool = True
) -> Path:
    """A SROIE folder with this receipt in it; values None: nobody labelled it."""
    for kind in ("box", "entities", "img"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    text = "\r\n".join(line(text, row) for row, text in enumerate(lines))
    (folder / "box" / f"{name}.csv").write_text(text, encoding="utf-8", newline="")
    if values is not None:
        (folder / "entities" / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    if image:
        Image.new("L", SIZE).save(folder / "img" / f"{name}.jpg")
    return folder
