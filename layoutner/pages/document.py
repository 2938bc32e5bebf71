"""One page: words, their boxes, and, where they are known, their labels."""

from dataclasses import dataclass

from layoutner.errors import DataError
from layoutner.files.image import PageImage

Box = tuple[int, int, int, int]  # x0, y0, x1, y1, in thousandths of the page's width and height


@dataclass(frozen=True)
class Document:
    """A page of words. `words`, `boxes` and `tags` run in parallel; `tags` is None where nobody labelled it."""

    name: str
    words: tuple[str, ...]
    boxes: tuple[Box, ...]
    tags: tuple[str, ...] | None  # "O", or prefix-type such as "B-HEADER"
    page_size: tuple[float, float]  # width, height, in pixels or another unit of length, such as the points of a PDF
    image: PageImage | None = None
    segments: tuple[int, ...] | None = None  # words of one line or field share a number; None where the file has none
    breaks: tuple[int, ...] | None = None  # words before each empty line of the file; None where lines are no words
    group: str | None = None  # pages of one document share it, and are never parted between training and scoring

    def segment_boxes(self) -> tuple[Box, ...]:
        """For every word the box around its whole segment.

        Raises:
            DataError: the document has no segments.
        """
        if self.segments is None:
            raise DataError(f"{self.name}: box_level = segment takes the boxes of lines or fields, and it names none")
        around: dict[int, Box] = {}
        for segment, box in zip(self.segments, self.boxes, strict=True):
            around[segment] = union(around.get(segment, box), box)
        return tuple(around[segment] for segment in self.segments)


def union(one: Box, other: Box) -> Box:
    """The smallest box around two boxes."""
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])
