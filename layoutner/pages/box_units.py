"""Detect boxes in a wrong unit, from all boxes of a page and of a split.

A single box is valid in any unit: [0.5, 0.2, 0.6, 0.3] is a tiny box in thousandths. But if all boxes are in another
unit than the stated one, they leave the page, have almost no size, or stay in one corner of every page.

Measured on FUNSD, SROIE and CORD (1,425 pages, of which 1,405 have 10 words or more): the median height of a page's
words is 8 to 54 thousandths of the page, its text reaches at least 374 thousandths to the right and 420 down, and no
box is inverted.
"""

from collections.abc import Collection
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from layoutner.settings.data import BoxFormat, BoxUnit

RawBox = tuple[float, float, float, float]

FEW_BOXES = 4  # with fewer boxes, most of them may be inverted by mistake
FEW_WORDS = 10  # with fewer words, the boxes of a page may be small or in a corner by chance
FEW_PAGES = 5  # with fewer pages, so may the boxes of a split
SMALLEST = 3  # thousandths of the page: height of the smallest readable print
TALLEST = 80  # thousandths: the median word height is below this
FILLED = 600  # thousandths: in the stated unit, if it is right, the text of some page reaches at least this far
FULL = 850  # thousandths: in the other unit, if that one is right, the text of some page reaches at least this far
CLOSE = 0.8  # text that reaches this share of a page's width or height counts as close to the edge
MOST_OFF = 0.1  # maximum share of boxes off the page that single mistakes can explain


class Reading(NamedTuple):
    """Unit and format in which boxes are read."""

    unit: BoxUnit
    format: BoxFormat


def to_corners(box: RawBox, format: BoxFormat) -> RawBox:
    """x0, y0, x1, y1 of a box in either format."""
    x, y, width, height = box
    return box if format == "xyxy" else (x, y, x + width, y + height)


def to_thousandths(box: RawBox, unit: BoxUnit, page_size: tuple[float, float]) -> RawBox:
    """x0, y0, x1, y1 in thousandths of the page, not rounded.

    Args:
        box: x0, y0, x1, y1.
        page_size: width and height, for boxes in pixels.
    """
    x0, y0, x1, y1 = box
    if unit == "thousandths":
        return box
    if unit == "pixels":
        width, height = page_size
        return 1000 * x0 / width, 1000 * y0 / height, 1000 * x1 / width, 1000 * y1 / height
    scale = 1000 if unit == "fractions" else 10
    return x0 * scale, y0 * scale, x1 * scale, y1 * scale


def suspect(
    boxes: list[RawBox], reading: Reading, page_size: tuple[float, float], sure_of: Collection[str] = ()
) -> str | None:
    """A message if the boxes of a page must be in another unit or format, with advice; None if they are plausible.

    Args:
        boxes: four finite numbers each.
        reading: the current unit and format.
        page_size: width and height.
        sure_of: "unit" and "format", if the user has set them; what is in here is not questioned.
    """
    reasons: list[str] = []
    format, unit = reading.format, reading.unit
    if format == "xyxy" and "format" not in sure_of and len(boxes) >= FEW_BOXES:
        inverted = sum(x1 < x0 or y1 < y0 for x0, y0, x1, y1 in boxes)
        if 2 * inverted > len(boxes):
            reasons.append(f"the second corner lies left of or above the first in {inverted} of {len(boxes)} boxes")
            format = "xywh"
    corners = [to_corners(box, format) for box in boxes]
    largest = max((max(box) for box in corners), default=0.0)
    is_judged = "unit" not in sure_of
    if is_judged and unit != "fractions" and 0 < largest <= 1:
        if not all(float(side).is_integer() for box in boxes for side in box):
            reasons.append("nothing lies above 1")
            unit = "fractions"
        elif len(boxes) >= FEW_WORDS:
            return (
                f"every side of its {len(boxes)} boxes is 0 or 1: fractions of the page that lost their decimals? "
                "They have to be made again from their source"
            )
    elif is_judged and len(boxes) >= FEW_WORDS and (found := _better(corners, unit, page_size)):
        where = f", on a page of {page_size[0]:g} x {page_size[1]:g} pixels" if found == "pixels" else ""
        reasons.append("nothing lies above 100" if found == "percent" else f"boxes reach {largest:g}{where}")
        unit = found
    if not reasons:
        return None
    return _advice(reasons, reading, Reading(unit, format))


def _advice(reasons: list[str], now: Reading, then: Reading) -> str:
    names = {
        "thousandths": "thousandths of the page",
        "pixels": "pixels",
        "fractions": "fractions of the page (0 to 1)",
        "percent": "percent of the page (0 to 100)",
    }
    looks, keys, settings = [], [], []
    if then.format != now.format:
        looks.append("x, y, width, height")
        keys.append(f'"box": "{then.format}"')
        settings.append(f"data.box_format = {then.format}")
    if then.unit != now.unit:
        looks.append(names[then.unit])
        keys.append(f'"unit": "{then.unit}"')
        settings.append(f"data.box_unit = {then.unit}")
    mean = [f"data.box_unit = {now.unit}"] if then.unit != now.unit else [f"data.box_format = {now.format}"]
    return (
        f"{' and '.join(reasons)}: the boxes look like {' in '.join(looks)}, but are read as "
        f"{names[now.unit] if then.unit != now.unit else 'x0, y0, x1, y1'}; {' and '.join(settings)} reads them so "
        f"(jsonl: {', '.join(keys)} on the page); set {mean[0]} if they are right as they are read"
    )


def _better(corners: list[RawBox], unit: BoxUnit, page_size: tuple[float, float]) -> BoxUnit | None:
    """A unit in which the boxes are on the page and as tall as words, if they are not in `unit`; else None."""
    off, height = _look(corners, unit, page_size)
    if off <= MOST_OFF and height >= SMALLEST:
        return None
    others: tuple[BoxUnit, ...] = ("percent", "thousandths", "pixels")
    for other in others:
        if other != unit:
            off, height = _look(corners, other, page_size)
            if off <= MOST_OFF and SMALLEST <= height <= TALLEST:
                return other
    return None


def _look(corners: list[RawBox], unit: BoxUnit, page_size: tuple[float, float]) -> tuple[float, float]:
    """(share of boxes off the page, median box height in thousandths of the page)."""
    boxes = [to_thousandths(box, unit, page_size) for box in corners]
    off = sum(min(box) < 0 or max(box) > 1001 for box in boxes)
    return off / len(boxes), median(y1 - y0 for _, y0, _, y1 in boxes)


@dataclass
class Reach:
    """Statistics on how far the boxes of a split's pages reach, in their unit and in the alternative unit.

    If the boxes of a single page fit as pixels and as thousandths, the units cannot be told apart. Many pages can.
    """

    unit: BoxUnit
    pages: int = 0
    farthest: float = 0.0  # thousandths of the page, as read
    other_farthest: float = 0.0  # thousandths of the page, in the other unit
    fit_other: int = 0  # pages whose boxes are all on the page in the other unit
    narrow: int = 0  # pages that are clearly smaller in the other unit, in at least one direction
    close: int = 0  # of these, pages whose text nearly reaches the edge in that direction

    def add(self, boxes: list[RawBox], format: BoxFormat, page_size: tuple[float, float]) -> None:
        """Add a page. Ignores pages with few words, and units other than pixels and thousandths."""
        if len(boxes) < FEW_WORDS or self.unit not in OTHER:
            return
        corners = [to_corners(box, format) for box in boxes]
        right, down = max(box[2] for box in corners), max(box[3] for box in corners)
        size, other = ((1000.0, 1000.0), page_size) if self.unit == "thousandths" else (page_size, (1000.0, 1000.0))
        reach = max(right / size[0], down / size[1])
        in_other = right / other[0], down / other[1]
        self.pages += 1
        self.farthest = max(self.farthest, 1000 * reach)
        self.other_farthest = max(self.other_farthest, 1000 * max(in_other))
        self.fit_other += max(in_other) <= 1
        clearly = [share for share, here, there in zip(in_other, size, other, strict=True) if there < 0.85 * here]
        self.narrow += bool(clearly)
        self.close += any(CLOSE <= share <= 1 for share in clearly)

    def suspicion(self) -> tuple[str, bool] | None:
        """(message about the probable unit, whether the stated unit is certainly wrong), or None."""
        if self.pages < FEW_PAGES or self.fit_other < self.pages:
            return None
        other = OTHER[self.unit]
        now, then = Reading(self.unit, "xyxy"), Reading(other, "xyxy")
        if self.farthest < FILLED and self.other_farthest >= FULL:
            corner = f"the boxes of all {self.pages} pages lie in the first {self.farthest:.0f} thousandths of the page"
            return _advice([corner], now, then), True
        if self.narrow >= 2 * FEW_PAGES and 2 * self.close >= self.narrow:
            inside = "no box leaves the page if they are measured in pixels"
            if other == "thousandths":
                inside = "no box goes beyond 1000 in either direction"
            return _advice([f"of {self.pages} pages {inside}"], now, then), False
        return None


OTHER: dict[BoxUnit, BoxUnit] = {"thousandths": "pixels", "pixels": "thousandths"}
