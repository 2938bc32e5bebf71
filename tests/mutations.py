"""JSON that somebody else got wrong: random changes to a sound value, and what a reader must make of them."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layoutner.config.settings import DataSettings
from layoutner.data.corpus import stream
from layoutner.data.document import Document
from layoutner.data.page import Tally

ODD: list[Any] = [
    *(None, True, -1, 0, 3.5, 10**400, -(10**9), 1e308, float("nan"), float("inf")),
    *("", " ", "\0", "\ud800", "B-\ud800", "B-", "🙂👩‍👩‍👧", "שלום", "\u202eabc", "../../../etc/passwd", "x" * 5000),
    *([], [[]], [1, 2, 3], {}, {"a": []}, [None] * 4, ["1"] * 4, [10**400] * 4, [float("nan")] * 4),
    json.loads("[" * 400 + "]" * 400),
]


def mutated_values(value: Any, count: int, seed: int) -> Iterator[Any]:
    """Copies of a JSON value, each with one to three of its parts replaced, removed or doubled."""
    dice = random.Random(seed)
    for _ in range(count):
        copy = json.loads(json.dumps(value))
        for _ in range(dice.randint(1, 3)):
            places = list(_places(copy))
            if not places:
                break
            holder, key = dice.choice(places)
            change = dice.random()
            if change < 0.7:
                holder[key] = json.loads(json.dumps(dice.choice(ODD)))
            elif change < 0.85:
                del holder[key]
            elif isinstance(holder, list):
                holder.insert(key, holder[key])
        yield copy


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """(list or dict, index or key) of every part."""
    pairs: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in pairs:
        yield value, key
        if depth < 20:
            yield from _places(part, depth + 1)


def mutated_bytes(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Copies of a file's bytes: cut off, with bytes changed, with bytes put in."""
    dice = random.Random(seed)
    odd = (
        b"\0",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b'"',
        b"}",
        b"[" * 3000,
        b"9" * 5000,
        b"1e999",
        b"NaN",
        b"\\ud800",
        b"\n",
    )
    for _ in range(count):
        place = dice.randrange(len(content))
        change = dice.randrange(3)
        if change == 0:
            yield content[:place]
        else:
            yield content[:place] + dice.choice(odd) + content[place + (change == 1) :]


def outcomes(format: str, path: Path, role: str, named: str) -> tuple[int, int]:
    """(documents, problems) of a path. Each document is sound, each problem names its file in one printable line."""
    documents = problems = 0
    for found in stream(DataSettings(format=format), path, role, Tally()):  # type: ignore[arg-type]
        if isinstance(found, Document):
            documents += 1
            json.dumps([found.name, found.words, found.tags], ensure_ascii=False).encode()
            assert all(isinstance(side, int) and 0 <= side <= 1000 for box in found.boxes for side in box)
            assert found.image is None or found.image.is_file()
        else:
            problems += len(found)
            for problem in found:
                assert str(problem).startswith(named)
                assert "\n" not in str(problem).encode().decode()
    return documents, problems
