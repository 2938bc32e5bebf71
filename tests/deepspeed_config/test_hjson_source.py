"""Reading JSON and HJSON with places: the same data as the hjson library that DeepSpeed uses."""

import contextlib
import random
from pathlib import Path

import hjson
import pytest

from layoutner.deepspeed_config.hjson_source import SourceError, read_source

TEXTS = [
    '{"a": 5e8, "b": 1.0, "c": 1e-5, "d": -0.9, "e": [1, 2.5, true, null]}',
    "{a: True,\n b: 3 # three\n c: hello, world\n}",
    "a: 1\nb: 2 // two\n",
    '{"a": [1,2,], /* x\n y */ "b": {},}',
    "{a:\n  '''\n  x\n   y\n  '''\n}",
    "{a: 01\n b: 5 apples\n c: .5\n d: -1\n}",
    "[1, 2]",
    "3",
    '{"a": "x\\u00e9\\n\\"", \'b\': \'c\'}',
    "{}",
    "",
    "{a: falsey\n b: null\n c: nullable\n}",
    '\ufeff{"a": 1}',
]


@pytest.mark.parametrize("text", TEXTS)
def test_it_reads_what_the_library_reads(text: str) -> None:
    assert read_source(text).value() == hjson.loads(text)


@pytest.mark.parametrize(
    "text",
    ["{", '{"a"', '{"a": }', '{"a": "x\n"}', "{a: [1, 2}", '{"a": 1} x', "{'a': '''x}", "/* x", '{"a": "\\x"}'],
)
def test_what_is_neither_says_where(text: str) -> None:
    with pytest.raises(SourceError, match=r"line \d+ column \d+"):
        read_source(text)


def test_a_deep_nest_is_an_error_and_no_crash() -> None:
    with pytest.raises(SourceError, match="more than 100 deep"):
        read_source("[" * 100_000)


def test_places_and_duplicates() -> None:
    root = read_source('{\n  "a": 1,\n  "b": {"c": [\n    7]},\n  "a": 2\n}')
    assert root.members is not None
    assert [(m.key, m.line, m.column) for m in root.members] == [("a", 2, 3), ("b", 3, 3), ("a", 5, 3)]
    inner = root.members[1].node.members
    assert inner is not None
    assert inner[0].node.items is not None
    assert (inner[0].node.items[0].line, inner[0].node.items[0].column) == (4, 5)
    assert root.value() == {"a": 2, "b": {"c": [7]}}


def test_mutated_texts_are_read_or_refused_never_a_crash() -> None:
    rng = random.Random(3)
    for _ in range(3000):
        text = list(rng.choice(TEXTS))
        for _ in range(rng.randrange(1, 4)):
            place = rng.randrange(len(text) + 1)
            text[place : place + rng.randrange(3)] = rng.choice(
                ["{", "}", '"', ",", ":", "\n", "/", "#", "'''", "1", "\\"]
            )
        with contextlib.suppress(SourceError):
            read_source("".join(text)).value()


def test_real_configs(real_data: Path) -> None:
    files = sorted((real_data / "ds_configs").glob("*.json"))
    assert len(files) > 100
    for file in files:
        text = file.read_text(encoding="utf-8")
        try:
            theirs = hjson.loads(text)
        except hjson.HjsonDecodeError:
            with pytest.raises(SourceError):
                read_source(text)
        else:
            assert read_source(text).value() == theirs, file.name
