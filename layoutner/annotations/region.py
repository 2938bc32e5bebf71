"""What an annotation tool has on a page: regions, which are rectangles or polygons with a label."""

import math
from dataclasses import dataclass, field
from functools import cached_property

from layoutner.pages.text_lines import LineBox, around

Point = tuple[float, float]

MOST_POINTS = 1000  # of a polygon
MOST_REGIONS = 5000  # of a page; more would take minutes


@dataclass(frozen=True)
class Region:
    """A rectangle or polygon of a page."""

    type: str | None  # entity type; None: the region has no label
    points: tuple[Point, ...]  # corners, in fractions of the page
    text: str = ""  # the tool's transcription; "" if it has none
    entity: str | None = None  # regions of a page with the same value are parts of one entity

    @cached_property
    def box(self) -> LineBox:
        """The upright box around the region."""
        return around(self.points)

    @cached_property
    def area(self) -> float:
        """In fractions of the page's area."""
        return _area(self.points)

    def share_of(self, box: LineBox) -> float:
        """The share of a box's area that the region covers, from 0 to 1.

        Args:
            box: x0, y0, x1, y1 in fractions of the page, with an area above 0.
        """
        x0, y0, x1, y1 = self.box
        left, top, right, bottom = box
        if x1 <= left or right <= x0 or y1 <= top or bottom <= y0:
            return 0.0
        points = list(self.points)
        # Cut off what is beyond each side of the box (Sutherland and Hodgman, 1974).
        for axis, limit, sign in ((0, left, 1), (0, right, -1), (1, top, 1), (1, bottom, -1)):
            points = _cut(points, axis, limit, sign)
        return min(1.0, _area(points) / ((right - left) * (bottom - top)))


def _cut(points: list[Point], axis: int, limit: float, sign: int) -> list[Point]:
    """The part of a polygon on one side of a line: where sign * (coordinate - limit) >= 0."""
    kept: list[Point] = []
    for before, point in zip(points[-1:] + points[:-1], points, strict=True):
        a, b = sign * (before[axis] - limit), sign * (point[axis] - limit)
        if a * b < 0:
            share = a / (a - b)
            kept.append((before[0] + share * (point[0] - before[0]), before[1] + share * (point[1] - before[1])))
        if b >= 0:
            kept.append(point)
    return kept


def _area(points: "tuple[Point, ...] | list[Point]") -> float:
    around_it = zip(points, (*points[1:], *points[:1]), strict=True)
    return abs(math.fsum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in around_it)) / 2


def rectangle(x: float, y: float, width: float, height: float) -> tuple[Point, ...]:
    """The corners of an upright rectangle, clockwise from its top left one."""
    return (x, y), (x + width, y), (x + width, y + height), (x, y + height)


def turned(points: tuple[Point, ...], degrees: float, aspect: float) -> tuple[Point, ...]:
    """Points turned clockwise around the first of them.

    Args:
        aspect: the page's width divided by its height. Angles are of the page as it is seen, not of its fractions.
    """
    if not degrees:
        return points
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x0, y0 = points[0]
    return tuple(
        (x0 + (x - x0) * cos - (y - y0) / aspect * sin, y0 + (x - x0) * aspect * sin + (y - y0) * cos)
        for x, y in points
    )


@dataclass(frozen=True)
class AnnotatedPage:
    """A page that somebody has annotated. It may have no region."""

    source: str  # where in the export, such as "task 3"; for messages
    names: tuple[str, ...]  # paths or URLs of its image or document
    regions: tuple[Region, ...]
    number: int | None = None  # in a document of several pages, from 1
    size: tuple[float, float] | None = None  # width, height of the image in pixels
    in_pixels: bool = False  # whether the points of the regions are in pixels instead of fractions


@dataclass
class Export:
    """The annotated pages of an export."""

    pages: list[AnnotatedPage] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # pages that cannot be used, and why
    notes: list[str] = field(default_factory=list)  # what was chosen or ignored
