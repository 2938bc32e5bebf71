"""Documents of a few pages, and what cuts them into windows."""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from layoutner.corpus.splitter import WindowSplitter
from layoutner.corpus.windows import Window
from layoutner.files.image import PageImage
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet
from layoutner.settings.tree import Settings, load

LABELS = LabelSet("BIO", ("A", "B"))


TEXTS = ["brass", "Wheel", "12", "Order", "x", "steel-frame-panel", "\u200b", "Größe", "日本", "😀", "a b", "O'Neil"]


def plain(windows: Iterable[Window]) -> list[Window]:
    """The same windows with lists of Python numbers in place of arrays, which can be compared."""
    return [
        replace(
            window,
            input_ids=window.input_ids.tolist(),
            boxes=list(map(tuple, window.boxes.tolist())),
            labels=window.labels.tolist(),
            owned_words=list(map(tuple, window.owned_words.tolist())),
        )
        for window in windows
    ]


Call = tuple[WindowSplitter, list[Document], LabelSet | None, bool]


def page(rng: random.Random, words: int, image: str | None = None) -> Document:
    boxes = []
    for _ in range(words):
        x, y = rng.randrange(900), rng.randrange(900)
        boxes.append((x, y, x + rng.randrange(100), y + rng.randrange(100)))
    tags = tuple(rng.choice(["O", "B-A", "B-B"]) for _ in range(words))
    texts, segments = (tuple(rng.choice(TEXTS) for _ in range(words)), tuple(word // 3 for word in range(words)))
    return Document(
        "d", texts, tuple(boxes), tags, (100, 100), None if image is None else PageImage(Path(image)), segments
    )


def pages(seed: int = 1) -> list[Document]:
    rng = random.Random(seed)
    found = [page(rng, words, f"page-{words}.png") for words in (150, 0, 1, 37)]
    return [*found, replace(page(rng, 9), tags=None)]


def change_tokenizer(change: Callable[[Any], object]) -> Callable[[Call], Call]:
    def changed(call: Call) -> Call:
        tokenizer = AutoTokenizer.from_pretrained(call[0].tokenizer.name_or_path)
        change(tokenizer)
        return replace(call[0], tokenizer=tokenizer), *call[1:]

    return changed


def settings_of(train: Path, model: Path, **data: object) -> Settings:
    values = {"train": train, "eval": 0.25, "max_length": 64, "stride": 16, **data}
    tree = {
        "model": {"name_or_path": str(model)},
        "data": {key: str(value) for key, value in values.items() if value is not None},
    }
    return load(None, tree)
