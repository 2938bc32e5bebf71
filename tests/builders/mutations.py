"""Files that somebody else got wrong: random changes to a sound JSON value, or to the bytes of any file."""

import json
import random
from collections.abc import Iterator
from typing import Any

ODD: list[Any] = [
    *(None, True, -1, 0, 3.5, 10**400, -(10**9), 1e308, float("nan"), float("inf")),
    *("", " ", "\0", "\ud800", "B-\ud800", "B-", "🙂👩‍👩‍👧", "שלום", "\u202eabc", "../../../etc/passwd", "x" * 5000),
    *([], [[]], [1, 2, 3], {}, {"a": []}, [None] * 4, ["1"] * 4, [10**400] * 4, [float("nan")] * 4),
    json.loads("[" * 400 + "]" * 400),
]


def mutated_values(value: Any, count: int, seed: int) -> Iterator[Any]:
    """Copies of a JSON value, each with one to three of its parts replaced, removed or doubled."""
    rng = random.Random(seed)
    for _ in range(count):
        copy = json.loads(json.dumps(value))
        for _ in range(rng.randint(1, 3)):
            places = list(_places(copy))
            if not places:
                break
            holder, key = rng.choice(places)
            change = rng.random()
            if change < 0.7:
                holder[key] = json.loads(json.dumps(rng.choice(ODD)))
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
    rng = random.Random(seed)
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
        place = rng.randrange(len(content))
        change = rng.randrange(3)
        if change == 0:
            yield content[:place]
        else:
            yield content[:place] + rng.choice(odd) + content[place + (change == 1) :]
