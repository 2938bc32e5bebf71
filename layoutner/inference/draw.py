"""Labels drawn on the page."""

import math
import re
import sys
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from layoutner.errors import DataError
from layoutner.files.atomic import atomic_file
from layoutner.files.image import PageImage, read_image
from layoutner.settings.data import MAX_IMAGE_MIB

_Sides = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the drawing

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933", "#882255")

LARGEST_SIDE = 8000  # pixels of a drawing; larger pages are drawn smaller
READABLE_SIDE = 650  # pixels of a drawing's shorter side; smaller pages are drawn some whole number of times as large
SIZES = (6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 24, 28, 32, 40, 48, 64)  # of text that is fitted to its box, in pixels
LONGEST_NAME = 200  # bytes of a drawing's file name, without its ending; file systems take 255


class Drawings:
    """A folder of drawn pages."""

    def __init__(self, folder: Path, types: tuple[str, ...], max_image_mib: int = MAX_IMAGE_MIB) -> None:
        """Make the folder.

        Args:
            types: all entity types of the model, for colours that are the same on every page.
            max_image_mib: data.max_image_mib.

        Raises:
            DataError: it cannot be made.
        """
        self.folder, self.types, self._max_image_mib = folder, types, max_image_mib
        self._pages: dict[str, int] = {}  # name without regard to case -> pages that have it
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder}: cannot be made a folder for drawings: {error}") from None

    def add(self, page: dict[str, Any], image: PageImage | None) -> Path:
        """Draw a page into a file of its own, named after the document, inside the folder and nowhere else.

        Raises:
            DataError: it cannot be written.
        """
        # A document may be named as it likes. No "~" comes through, so a number behind one is never another's name.
        # In a locale that is not UTF-8, file names have no other letters than the locale's.
        encoding = sys.getfilesystemencoding()
        safe = re.sub(r"[^\w.-]+", "_", page["document"]).lstrip(".").encode(encoding, "ignore")[:LONGEST_NAME]
        stem = safe.decode(encoding, "ignore") or "page"
        count = self._pages[stem.casefold()] = self._pages.get(stem.casefold(), 0) + 1
        out = self.folder / (f"{stem}~{count}.png" if count > 1 else f"{stem}.png")
        try:
            with atomic_file(out) as file:
                draw(page, image, self.types, file, self._max_image_mib)
        except OSError as error:
            raise DataError(f"{out}: cannot be written: {error}") from None
        return out


def draw(
    page: dict[str, Any],
    image: PageImage | None,
    types: tuple[str, ...],
    out: Path | IO[bytes],
    max_image_mib: int = MAX_IMAGE_MIB,
) -> None:
    """Draw the entities of a predicted page, with a legend below, as PNG.

    A model of more types than there are colours has them numbered, in the legend and at every box.

    Args:
        page: an object as `LabelledPage.to_dict` gives.
        image: the page's picture; without one, or where it cannot be read, the words are drawn on white.
        types: all entity types of the model, for colours that are the same on every page.
        out: the file to write.
        max_image_mib: data.max_image_mib; a larger image cannot be read.
    """
    width, height = _drawn_size(page["page_size"])
    numbered = len(types) > len(COLOURS)  # where colours repeat, numbers tell types apart
    style = {
        kind: (COLOURS[index % len(COLOURS)], str(index + 1) if numbered else "") for index, kind in enumerate(types)
    }
    size = max(12, height // 60)
    font, row = _font(size), size * 2
    # The legend takes as many rows as its names need.
    places: list[tuple[str, float, float]] = []
    x, y = row / 2, float(height)
    for kind in types:
        advance = row * 1.2 + font.getlength(kind)
        if x + advance > width and x > row / 2:
            x, y = row / 2, y + row
        places.append((kind, x, y))
        x += advance
    note = None
    picture = None
    if image is not None:
        try:
            picture = read_image(image, max_image_mib)
        except DataError:
            note, y = f"{image.path.name} cannot be read", y + row
    canvas = Image.new("RGB", (width, round(y) + row), "white")
    pen = ImageDraw.Draw(canvas)
    if picture is not None:
        canvas.paste(picture if picture.size == (width, height) else picture.resize((width, height)))
    else:
        for word in page["words"]:
            _fit(pen, _printable(word["text"]), _pixels(word["box"], width, height))
    badges = _Badges(pen, (width, height), [_pixels(word["box"], width, height) for word in page["words"]])
    for entity in page["entities"]:
        x0, y0, x1, y1 = _pixels(entity["box"], width, height)
        colour, number = style[entity["type"]]
        pen.rectangle((x0 - 2, y0 - 2, x1 + 2, y1 + 2), outline=colour, width=2)
        if number:
            badges.add(number, colour, (x0 - 2, y0 - 2, x1 + 2, y1 + 2), 0.8 * size)
    for kind, left, top in places:
        colour, number = style[kind]
        pen.rectangle((left, top + row / 4, left + row / 2, top + row * 3 / 4), fill=colour)
        if number:
            middle = (left + row / 4, top + row / 2)
            pen.text(middle, number, fill="white", font=_font(round(0.7 * size)), anchor="mm")
        pen.text((left + row * 0.7, top + row / 5), kind, fill="black", font=font)
    if note is not None:
        pen.text((row / 2, y + row / 5), _printable(note), fill="red", font=font)
    canvas.save(out, format="PNG")


def _drawn_size(page_size: Sequence[float]) -> tuple[int, int]:
    """Width and height of a page's drawing in pixels: its own, unless the page is vast, or small as one in points."""
    longest, shortest = max(page_size), min(page_size)
    scale = LARGEST_SIDE / longest  # at most
    if scale > 1:
        scale = max(1, min(math.ceil(READABLE_SIDE / shortest), int(scale)))
    width, height = (max(1, round(side * scale)) for side in page_size)
    return width, height


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _fit(pen: ImageDraw.ImageDraw, text: str, box: _Sides) -> None:
    """Write a text as large as its box lets it be, and not so small that nobody sees it."""
    x0, y0, x1, y1 = box
    size = y1 - y0
    if (length := _font(SIZES[-1]).getlength(text)) > 0:
        size = min(size, SIZES[-1] * (x1 - x0) / length)
    font = _font(SIZES[max(0, bisect_right(SIZES, size) - 1)])
    pen.text((x0, (y0 + y1) / 2), text, fill="black", font=font, anchor="lm")


class _Badges:
    """Numbers beside the boxes of entities, off the words and off one another where there is room."""

    CELL = 4  # pixels of a drawing a cell of the map of what is taken

    def __init__(self, pen: ImageDraw.ImageDraw, size: tuple[int, int], words: Sequence[_Sides]) -> None:
        self._pen, self._width = pen, size[0]
        self._taken = np.zeros((size[1] // self.CELL + 1, size[0] // self.CELL + 1), dtype=bool)
        for word in words:
            self._taken[self._cells(word)] = True

    def add(self, number: str, colour: str, box: _Sides, largest: float) -> None:
        """Write a number on its colour at a box: left of it, else right, above or below; left where none is free."""
        x0, y0, x1, y1 = box
        height = min(max(10, y1 - y0), largest)
        font = _font(max(8, round(0.8 * height)))
        width = font.getlength(number) + 4
        corners = [(max(0.0, x0 - width), y0), (min(x1, self._width - width), y0), (x0, y0 - height), (x0, y1)]
        places = [(left, top, left + width, top + height) for left, top in corners if top >= 0]
        place = next((place for place in places if not self._taken[self._cells(place)].any()), None)
        place = place or (corners[0][0], y0, corners[0][0] + width, y0 + height)
        self._taken[self._cells(place)] = True
        self._pen.rectangle(place, fill=colour)
        middle = ((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)
        self._pen.text(middle, number, fill="white", font=font, anchor="mm")

    def _cells(self, box: _Sides) -> tuple[slice, slice]:
        left, top, right, bottom = (max(0, int(side) // self.CELL) for side in box)
        return slice(top, bottom + 1), slice(left, right + 1)


def _printable(text: str) -> str:
    """One line that fits a page: no control character moves the pen, and no half character stops the font."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:LONGEST_NAME])


def _pixels(box: list[int], width: int, height: int) -> _Sides:
    x0, y0, x1, y1 = box
    return x0 * width / 1000, y0 * height / 1000, x1 * width / 1000, y1 * height / 1000
