"""Synthetic delivery notes in FUNSD's folder layout.

Sender and receiver are names from one list, order date and due date are dates, quantity and price are numbers: only
their position on the page tells them apart. The entities of a page are shuffled, as the output of an OCR engine may be,
so the word order gives no hint either.
"""

import json
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

TYPES = ("sender", "receiver", "ordered", "due", "item", "quantity", "price", "total")

FIRST = ("Anna", "Boris", "Clara", "David", "Elena", "Frank", "Greta", "Hugo", "Irma", "Jonas", "Karla", "Leon", "Mira")
LAST = [
    "Adler",
    "Brandt",
    "Costa",
    "Dietz",
    "Ebner",
    "Fischer",
    "Gruber",
    "Haas",
    "Ivanov",
    "Jansen",
    "Keller",
    "Lorenz",
    "Meyer",
    "Novak",
    "Ortega",
    "Peters",
]
COMPANY = ["Ltd", "Works", "Bros", "Supply"]
GOODS = ["steel", "copper", "brass", "paper", "glass", "rubber", "wooden", "plastic"]
THINGS = ["bolt", "pipe", "sheet", "frame", "valve", "cable", "panel", "wheel", "hinge", "board"]
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
TITLES = ("Delivery Note", "Order Form", "Packing List", "Goods Received")

CAPTIONS = {"sender": "From", "receiver": "To", "ordered": "Order date", "due": "Due date"}

Entity = tuple[str, list[tuple[str, int, int]]]  # label, [(word, x, y)] in pixels, top left corner


def make_forms(folder: Path, train: int, test: int, seed: int) -> None:
    """Write `train` and `test` forms under folder/training_data and folder/testing_data."""
    rng = random.Random(seed)
    for split, count in (("training_data", train), ("testing_data", test)):
        for kind in ("annotations", "images"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            _write_form(folder / split, f"{split.removesuffix('ing_data')}-{number:04d}", rng)


def _write_form(folder: Path, name: str, rng: random.Random) -> None:
    width, height = rng.randrange(600, 900), rng.randrange(800, 1200)
    font = ImageFont.load_default(size=rng.randrange(11, 15))
    page = Image.new("L", (width, height), 255)
    pen = ImageDraw.Draw(page)
    form = []
    for label, words in _layout(width, height, rng):
        placed: list[dict[str, object]] = []
        shift = 0.0
        for text, x, y in words:
            x0, y0, x1, y1 = pen.textbbox((x + shift, y), text, font=font)
            pen.text((x + shift, y), text, fill=0, font=font)
            shift += pen.textlength(text + " ", font=font)
            box = [max(0, int(x0)), max(0, int(y0)), min(width, int(x1) + 1), min(height, int(y1) + 1)]
            placed.append({"text": text, "box": box})
        form.append({"label": label, "text": " ".join(text for text, _, _ in words), "words": placed})
    rng.shuffle(form)
    page.save(folder / "images" / f"{name}.png", optimize=False)
    (folder / "annotations" / f"{name}.json").write_text(json.dumps({"form": form}), encoding="utf-8")


def _layout(width: int, height: int, rng: random.Random) -> list[Entity]:
    """Entities of one form. All words of an entity have the entity's (x, y); `_write_form` sets them side by side."""

    def at(x: float, y: float) -> tuple[int, int]:
        return int((x + rng.uniform(-0.02, 0.02)) * width), int((y + rng.uniform(-0.01, 0.01)) * height)

    def entity(label: str, text: str, x: float, y: float) -> Entity:
        left, top = at(x, y)
        return label, [(word, left, top) for word in text.split()]

    entities = [entity("other", rng.choice(TITLES), rng.choice((0.08, 0.4)), 0.04)]
    # Two layouts: parties side by side with the dates below, or parties stacked with the dates to the right.
    if rng.random() < 0.5:
        places = {
            "sender": (0.08, 0.14),
            "receiver": (0.55, 0.14),
            "ordered": (0.08, 0.22),
            "due": (0.55, 0.22),
        }
    else:
        places = {
            "sender": (0.08, 0.11),
            "receiver": (0.08, 0.25),
            "ordered": (0.65, 0.11),
            "due": (0.65, 0.25),
        }
    for label, (x, y) in places.items():
        entities.append(entity("other", CAPTIONS[label], x, y - 0.025))
        entities.append(entity(label, _date(rng) if label in ("ordered", "due") else _name(rng), x, y))
    y = 0.34
    for _ in range(rng.randrange(2, 6)):
        entities.append(entity("item", f"{rng.choice(GOODS)} {rng.choice(THINGS)}", 0.1, y))
        entities.append(entity("quantity", str(rng.randrange(1, 100)), 0.5, y))
        entities.append(entity("price", str(rng.randrange(1, 100)), 0.75, y))
        y += rng.uniform(0.05, 0.07)
    entities.append(entity("total", str(rng.randrange(1, 100)), 0.75, 0.8))
    entities.append(entity("other", f"page {rng.randrange(1, 100)}", rng.choice((0.1, 0.5)), 0.94))
    return entities


def _name(rng: random.Random) -> str:
    words = [rng.choice(FIRST), rng.choice(LAST)]
    return " ".join([*words, rng.choice(COMPANY)] if rng.random() < 0.4 else words)


def _date(rng: random.Random) -> str:
    return f"{rng.randrange(1, 29)} {rng.choice(MONTHS)} {rng.randrange(2020, 2027)}"
