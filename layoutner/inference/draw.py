"""Draw predicted entities on page images."""

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

# Adapted from Okabe and Ito's palette, which colour-blind readers can distinguish too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933", "#882255")

LARGEST_SIDE = 8000  # maximum side of a drawing in pixels; larger pages are scaled down
READABLE_SIDE = 650  # minimum shorter side of a drawing in pixels; smaller pages are scaled up by a whole number
SIZES = (6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 24, 28, 32, 40, 48, 64)  # font sizes for text fitted to a box, pixels
LONGEST_NAME = 200  # maximum bytes of a drawing's file name without its suffix; file systems allow 255


class Drawings:
    """A folder of page drawings."""

    def __init__(self, folder: Path, types: tuple[str, ...], max_image_mib: int = MAX_IMAGE_MIB) -> None:
        """Make the folder.

        Args:
            types: all entity types of the model, so that a type has the same colour on every page.
            max_image_mib: data.max_image_mib.

        Raises:
            DataError: it cannot be made.
        """
        self.folder, self.types, self._max_image_mib = folder, types, max_image_mib
        self._pages: dict[str, int] = {}  # case-folded file name -> number of pages with it
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder}: cannot create this folder for the drawings: {error}") from None

    def add(self, page: dict[str, Any], image: PageImage | None) -> Path:
        """Draw a page into its own file, named after the document. The file is always inside the folder.

        Raises:
            DataError: it cannot be written.
        """
        # A document name may contain anything. "~" is always replaced, so "NAME~2" cannot be the name of another page.
        # Characters that the file system encoding lacks are dropped.
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
    """Write the picture of `drawing` as PNG to the file `out`."""
    drawing(page, image, types, max_image_mib).save(out, format="PNG")


def drawing(
    page: dict[str, Any], image: PageImage | None, types: tuple[str, ...], max_image_mib: int = MAX_IMAGE_MIB
) -> Image.Image:
    """Draw the entities of a predicted page, with a legend below.

    If the model has more types than there are colours, types are also numbered, in the legend and next to every box.

    Args:
        page: the result of `LabelledPage.to_dict`.
        image: the page image; without one, or if it cannot be read, the words are drawn on white.
        types: all entity types of the model, so that a type has the same colour on every page.
        max_image_mib: data.max_image_mib; a larger image counts as unreadable.
    """
    width, height = _drawn_size(page["page_size"])
    numbered = len(types) > len(COLOURS)  # colours repeat, so types also get numbers
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
    return canvas


def _drawn_size(page_size: Sequence[float]) -> tuple[int, int]:
    """Width and height of a drawing in pixels: the page's own, unless the page is huge, or small (a PDF in points)."""
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
    """Write a text in the largest size that fits its box, but not below the smallest of `SIZES`."""
    x0, y0, x1, y1 = box
    size = y1 - y0
    if (length := _font(SIZES[-1]).getlength(text)) > 0:
        size = min(size, SIZES[-1] * (x1 - x0) / length)
    font = _font(SIZES[max(0, bisect_right(SIZES, size) - 1)])
    pen.text((x0, (y0 + y1) / 2), text, fill="black", font=font, anchor="lm")


class _Badges:
    """Places numbers next to entity boxes, avoiding words and other numbers if there is room."""

    CELL = 4  # pixels per cell of the occupancy map

    def __init__(self, pen: ImageDraw.ImageDraw, size: tuple[int, int], words: Sequence[_Sides]) -> None:
        self._pen, self._width = pen, size[0]
        self._taken = np.zeros((size[1] // self.CELL + 1, size[0] // self.CELL + 1), dtype=bool)
        for word in words:
            self._taken[self._cells(word)] = True

    def add(self, number: str, colour: str, box: _Sides, largest: float) -> None:
        """Write a number next to a box: left, right, above or below, the first that is free; left if none is."""
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
    """Shorten a text and replace characters that cannot be drawn, such as control characters and lone surrogates."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:LONGEST_NAME])


def _pixels(box: list[int], width: int, height: int) -> _Sides:
    x0, y0, x1, y1 = box
    return x0 * width / 1000, y0 * height / 1000, x1 * width / 1000, y1 * height / 1000
