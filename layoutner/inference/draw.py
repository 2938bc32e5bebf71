"""Labels drawn on the page."""

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933", "#882255")


def draw(page: dict[str, Any], image: Path | None, types: tuple[str, ...], out: Path) -> None:
    """Draw the entities of a predicted page, with a legend below, as PNG.

    Args:
        page: an object as `predict` gives.
        image: the page's picture; None draws the words on white.
        types: all entity types of the model, for colours that are the same on every page.
    """
    width, height = page["page_size"]
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
    canvas = Image.new("RGB", (width, round(y) + row), "white")
    pen = ImageDraw.Draw(canvas)
    if image is not None:
        with Image.open(image) as picture:
            canvas.paste(picture.convert("RGB"))
    else:
        for word in page["words"]:
            x0, y0, _, _ = _pixels(word["box"], width, height)
            pen.text((x0, y0), word["text"], fill="black", font=font)
    for entity in page["entities"]:
        x0, y0, x1, y1 = _pixels(entity["box"], width, height)
        pen.rectangle((x0 - 2, y0 - 2, x1 + 2, y1 + 2), outline=colour[entity["type"]], width=2)
    for kind, left, top in places:
        pen.rectangle((left, top + row / 4, left + row / 2, top + row * 3 / 4), fill=colour[kind])
        pen.text((left + row * 0.7, top + row / 5), kind, fill="black", font=font)
    out.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(out)


def _pixels(box: list[int], width: int, height: int) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    return x0 * width / 1000, y0 * height / 1000, x1 * width / 1000, y1 * height / 1000
