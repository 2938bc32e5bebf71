"""A page of a report: its image or words, with its errors over it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from layoutner.errors import DataError
from layoutner.files.image import PageImage, read_image, to_data_url
from layoutner.files.text import printable
from layoutner.objectives.errors import ComparedEntity, Kind, WrongPage
from layoutner.pages.document import Box, union

IMAGE_SIDE = 1000  # pixels; larger page images are scaled down
IMAGE_QUALITY = 50  # of WebP
LONGEST_TEXT = 120  # characters of an entity
WIDTH = 1000  # of the drawing, in its own units


@dataclass(frozen=True)
class Rectangle:
    """A place on the drawing, in its own units."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class EntityView:
    """An entity or an error on a page."""

    kind: Kind
    slug: str  # the kind as the name of a class of the style sheet
    said: str  # what it is, such as "QUESTION read as ANSWER"
    text: str  # its words
    probability: float | None  # the least of the predicted tags of its words; None = it was not predicted
    truth: Sequence[Rectangle]  # one for each line of its words
    predicted: Sequence[Rectangle]


@dataclass(frozen=True)
class PageView:
    """A page as it is drawn."""

    name: str
    errors: int
    height: float  # of the drawing
    image: str | None  # as a data URL
    note: str | None  # why there is no image
    words: Sequence[tuple[str, Rectangle]]  # to be written; none if there is an image
    entities: Sequence[EntityView]


def slug(kind: str) -> str:
    """A kind of error as the name of a class."""
    return kind.replace(" ", "-")


def view(page: WrongPage, max_image_mib: int) -> PageView:
    """How a page is drawn. An image that cannot be read is left out, and the page says so.

    Args:
        max_image_mib: data.max_image_mib.
    """
    width, height = page.page_size
    high = WIDTH * height / width
    image, note = _image(page, max_image_mib)

    def place(box: Box) -> Rectangle:
        x0, y0, x1, y1 = box
        return Rectangle(x0, y0 * high / 1000, x1 - x0, (y1 - y0) * high / 1000)

    def around(entity: tuple[str, int, int] | None) -> list[Rectangle]:
        return [] if entity is None else list(map(place, _lines(page.boxes[entity[1] : entity[2]])))

    entities = [
        EntityView(
            one.kind,
            slug(one.kind),
            _said(one),
            _text(page, one),
            None if one.predicted is None else min(page.probabilities[one.predicted[1] : one.predicted[2]]),
            around(one.truth),
            around(one.predicted),
        )
        for one in page.entities
    ]
    words = [(printable(text), place(box)) for text, box in zip(page.words, page.boxes, strict=True)]
    return PageView(
        printable(page.document), page.errors, high, image, note, [] if image is not None else words, entities
    )


def _lines(boxes: Sequence[Box]) -> list[Box]:
    """The boxes around the words of each line: a word begins a line if it is not to the right of the one before."""
    lines: list[Box] = []
    last: Box | None = None
    for box in boxes:
        if last is not None and box[0] >= last[0] and min(box[3], last[3]) > max(box[1], last[1]):
            lines[-1] = union(lines[-1], box)
        else:
            lines.append(box)
        last = box
    return lines


def _said(one: ComparedEntity) -> str:
    truth, predicted = (None if side is None else printable(side[0]) for side in (one.truth, one.predicted))
    if truth is None or predicted is None or truth == predicted:
        return truth or predicted or ""
    return f"{truth} read as {predicted}"


def _text(page: WrongPage, one: ComparedEntity) -> str:
    sides = [(side[1], side[2]) for side in (one.truth, one.predicted) if side is not None]
    said = list(dict.fromkeys(printable(" ".join(page.words[start:end])) for start, end in sides))
    return " / predicted: ".join(text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "..." for text in said)


def _image(page: WrongPage, max_image_mib: int) -> tuple[str | None, str | None]:
    """The page image as a data URL, and otherwise why there is none."""
    if page.image is None:
        return None, None
    try:
        picture = read_image(PageImage(Path(page.image), page.frame), max_image_mib)
    except DataError as error:
        return None, printable(str(error))
    return to_data_url(picture, IMAGE_SIDE, IMAGE_QUALITY), None
