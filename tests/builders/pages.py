"""Pages to be labelled, as lines of JSON."""

import json
from typing import Any

from layoutner.pages.labels import LabelSet

LABELS = LabelSet("BIO", ("SENDER", "TOTAL"))


def page(name: str, words: list[str], **more: object) -> dict[str, Any]:
    boxes = [
        [10 * (index % 90), 5 * (index % 190), 10 * (index % 90) + 9, 5 * (index % 190) + 4]
        for index in range(len(words))
    ]
    found = [{"text": word, "box": box} for word, box in zip(words, boxes, strict=True)]
    return {"document": name, "page_size": [600, 800], "words": found, **more}


def lines(*pages: dict[str, Any] | str) -> str:
    return "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in pages)
