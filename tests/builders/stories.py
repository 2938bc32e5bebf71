"""Documents of made-up words, to be told from one another."""

from pathlib import Path

from layoutner.files.image import PageImage
from layoutner.pages.document import Document

NAMES = [first + second for first in "brst" for second in ("ale", "oak", "ill", "ump")]


def page(name: str, text: str, image: Path | None = None) -> Document:
    words = tuple(text.split())
    return Document(
        name,
        words,
        ((0, 0, 1, 1),) * len(words),
        ("B-X",) * len(words),
        (10, 10),
        None if image is None else PageImage(image),
    )


def story(seed: int, length: int = 40) -> str:
    """Words of letters, each once, that are of no other seed's story."""
    mark = "abcdefghij"[seed % 10] * (seed // 10 + 1)
    return " ".join(f"{NAMES[at % 16]}{'klmnopqr'[at // 16]}{mark}" for at in range(length))
