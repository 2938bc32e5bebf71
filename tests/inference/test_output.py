"""A file of answers: the disk has it before it has its name."""

import os
from pathlib import Path

import pytest

from layoutner.inference.output import Output


def test_an_output_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[list[str]] = []
    monkeypatch.setattr(os, "fsync", lambda _: flushed.append([file.name for file in tmp_path.iterdir()]))
    output = Output(tmp_path / "out")
    output.open()
    output.write("x")
    output.finish()
    assert flushed == [[".out.partial"], ["out"]]  # the file, then the name in its folder
    assert (tmp_path / "out").read_text() == "x"
