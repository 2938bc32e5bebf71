"""Labels drawn on the page."""

import re
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from layoutner.config.data_settings import MAX_IMAGE_MIB
from layoutner.config.errors import UserError
from layoutner.data.document import PageImage
from layoutner.data.image_file import read_image

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933", "#882255")

LARGEST_SIDE = 8000  # pixels of a drawing; larger pages are drawn smaller
LONGEST_NAME = 200  # bytes of a drawing's file name, without its ending; file systems take 255


class Drawings:
    """A folder of drawn pages."""

    def __init__(self, folder: Path, types: tuple[str, ...], max_image_mib: int = MAX_IMAGE_MIB) -> None:
        """Make the folder.

        Args:
            types: all entity types of the model, for colours that are the same on every page.
            max_image_mib: data.max_image_mib.

        Raises:
            UserError: it cannot be made.
        """
        self.folder, self.types, self._max_image_mib = folder, types, max_image_mib
        self._pages: dict[str, int] = {}  # name without regard to case -> pages that have it
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot be made a folder for drawings: {error}") from None

    def add(self, page: dict[str, Any], image: PageImage | None) -> Path:
        """Draw a page into a file of its own, named after the document, inside the folder and nowhere else.

        Raises:
            UserError: it cannot be written.
        """
        # A document may be named as it likes. No "~" comes through, so a number behind one is never another's name.
        # In a locale that is not UTF-8, file names have no other letters than the locale's.
        encoding = sys.getfilesystemencoding()
        safe = re.sub(r"[^\w.-]+", "_", page["document"]).lstrip(".").encode(encoding, "ignore")[:LONGEST_NAME]
        stem = safe.decode(encoding, "ignore") or "page"
        count = self._pages[stem.casefold()] = self._pages.get(stem.casefold(), 0) + 1
        out = self.folder / (f"{stem}~{count}.png" if count > 1 else f"{stem}.png")
        partial = self.folder / ".drawing.partial"
        try:
            draw(page, image, self.types, partial, self._max_image_mib)
            partial.rename(out)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise UserError(f"{out}: cannot be written: {error}") from None
        return out


def draw(
    page: dict[str, Any],
    image: PageImage | None,
    types: tuple[str, ...],
    out: Path,
    max_image_mib: int = MAX_IMAGE_MIB,
) -> None:
    """Draw the entities of a predicted page, with a legend below, as PNG.

    Args:
        page: an object as `to_page` gives.
        image: the page's picture; without one, or where it cannot be read, the words are drawn on white.
        types: all entity types of the model, for colours that are the same on every page.
        out: the file to write.
        max_image_mib: data.max_image_mib; a larger image cannot be read.
    """
    width, height = (max(1, round(side)) for side in page["page_size"])
    if (longest := max(width, height)) > LARGEST_SIDE:
        width, height = (max(1, side * LARGEST_SIDE // longest) for side in (width, height))
    colour = {kind: COLOURS[index % len(COLOURS)] for index, kind in enumerate(types)}
    size = max(12, height // 60)
    font, row = ImageFont.load_default(size=size), size * 2
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
        except UserError:
            note, y = f"{image.path.name} cannot be read", y + row
    canvas = Image.new("RGB", (width, round(y) + row), "white")
    pen = ImageDraw.Draw(canvas)
    if picture is not None:
        canvas.paste(picture if picture.size == (width, height) else picture.resize((width, height)))
    else:
        for word in page["words"]:
            x0, y0, _, _ = _pixels(word["box"], width, height)
            pen.text((x0, y0), _printable(word["text"]), fill="black", font=font)
    for entity in page["entities"]:
        x0, y0, x1, y1 = _pixels(entity["box"], width, height)
        pen.rectangle((x0 - 2, y0 - 2, x1 + 2, y1 + 2), outline=colour[entity["type"]], width=2)
    for kind, left, top in places:
        pen.rectangle((left, top + row / 4, left + row / 2, top + row * 3 / 4), fill=colour[kind])
        pen.text((left + row * 0.7, top + row / 5), kind, fill="black", font=font)
    if note is not None:
        pen.text((row / 2, y + row / 5), _printable(note), fill="red", font=font)
    canvas.save(out, format="PNG")


def _printable(text: str) -> str:
    """One line that fits a page: no control character moves the pen, and no half character stops the font."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:LONGEST_NAME])


def _pixels(box: list[int], width: int, height: int) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    return x0 * width / 1000, y0 * height / 1000, x1 * width / 1000, y1 * height / 1000
