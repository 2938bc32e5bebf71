"""Lines of a pipe: each can be had when it is there, and it is known whether it is."""

import os
import random
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pytest

from layoutner.readers.live import LiveLines, standard_input

LIMIT = 2**20


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, LiveLines]]:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as writer:
        yield writer, LiveLines(stream)


def test_a_line_is_there_when_its_end_is(pipe: tuple[BinaryIO, LiveLines]) -> None:
    writer, lines = pipe
    assert not lines.has_next()
    writer.write(b"one")
    assert not lines.has_next()
    writer.write(b"\ntwo\nthr")
    assert lines.has_next()
    assert lines.readline(LIMIT) == b"one\n"
    assert lines.has_next()
    assert lines.readline(LIMIT) == b"two\n"
    assert not lines.has_next()
    writer.close()
    assert lines.has_next()
    assert (lines.readline(LIMIT), lines.readline(LIMIT)) == (b"thr", b"")


def test_blank_lines_are_nothing_to_wait_with_an_answer_for(pipe: tuple[BinaryIO, LiveLines]) -> None:
    writer, lines = pipe
    writer.write(b"\n  \r\n")
    assert not lines.has_next()
    writer.write(b"x\n")
    assert lines.has_next()
    assert [lines.readline(LIMIT) for _ in range(3)] == [b"\n", b"  \r\n", b"x\n"]
    assert not lines.has_next()


def test_a_long_line_comes_in_parts(pipe: tuple[BinaryIO, LiveLines]) -> None:
    writer, lines = pipe
    writer.write(b"abcdefg\nh\n")
    assert [lines.readline(4) for _ in range(3)] == [b"abcd", b"efg\n", b"h\n"]


def test_lines_are_those_of_a_file_however_they_are_written(pipe: tuple[BinaryIO, LiveLines]) -> None:
    writer, lines = pipe
    rng = random.Random(3)
    text = b"".join(b"x" * rng.choice([0, 1, 5, 70_000]) + rng.choice([b"\n", b"\r\n", b" \n"]) for _ in range(60))

    def write() -> None:
        left = text
        while left:
            size = rng.choice([1, 3, 4096, 65_536])
            writer.write(left[:size])
            left = left[size:]
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    found = []
    while True:
        if rng.random() < 0.5:
            lines.has_next()
        if not (line := lines.readline(LIMIT)):
            break
        found.append(line)
    thread.join()
    assert found == text.splitlines(keepends=True)


def test_a_file_has_always_a_next_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").write_bytes(b"a\nb")
    with (tmp_path / "in").open("rb") as stream:
        lines = LiveLines(stream)
        assert lines.has_next()
        assert [lines.readline(LIMIT) for _ in range(3)] == [b"a\n", b"b", b""]
    assert LiveLines(BytesIO(b"x")).has_next()
    monkeypatch.setattr("sys.stdin", None)
    assert standard_input() is None
