"""A page: words, boxes and, if known, labels."""

from dataclasses import dataclass

from layoutner.errors import DataError
from layoutner.files.image import PageImage

Box = tuple[int, int, int, int]  # x0, y0, x1, y1, in thousandths of the page's width and height


@dataclass(frozen=True)
class Document:
    """A page of words. `words`, `boxes` and `tags` have one item per word; `tags` is None for an unlabelled page."""

    name: str
    words: tuple[str, ...]
    boxes: tuple[Box, ...]
    tags: tuple[str, ...] | None  # "O", or prefix-type such as "B-HEADER"
    page_size: tuple[float, float]  # width, height, in pixels or another unit of length, such as the points of a PDF
    image: PageImage | None = None
    segments: tuple[int, ...] | None = None  # number of each word's line or field; None if the file has none
    breaks: tuple[int, ...] | None = None  # words before each empty line of the file; None if its lines are not words
    group: str | None = None  # the document that the page belongs to; splits keep its pages together

    def segment_boxes(self) -> tuple[Box, ...]:
        """The bounding box of the segment of each word.

        Raises:
            DataError: the document has no segments.
        """
        if self.segments is None:
            raise DataError(f"{self.name}: box_level = segment needs lines or fields, but there are none; use word")
        around: dict[int, Box] = {}
        for segment, box in zip(self.segments, self.boxes, strict=True):
            around[segment] = union(around.get(segment, box), box)
        return tuple(around[segment] for segment in self.segments)


def union(one: Box, other: Box) -> Box:
    """The smallest box around two boxes."""
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])
