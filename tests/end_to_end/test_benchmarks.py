"""The benchmark of speed measures every contender, goes on where it stopped, and reports."""

import json
from pathlib import Path

import pytest

from tests.builders.processes import ROOT, launch

CONTENDERS = {"layoutner", "hf", "hf-grouped", "accelerate", "script", "limit"}


@pytest.mark.slow
def test_every_contender_is_measured_once(forms: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    command = ["python", ROOT / "benchmarks" / "speed.py", forms, tmp_path, "--model", checkpoints["layoutlm"]]
    command += ["--length", 256]
    command += ["--batches", 4, "--ranks", 1, 2, "--rounds", 1, "--steps", 1]
    done = launch(command, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "measured.jsonl").read_text().splitlines()]
    assert {row["contender"] for row in rows if row["ranks"] == 1} == CONTENDERS
    assert {row["contender"] for row in rows if row["ranks"] == 2} == {"layoutner", "script", "limit"}
    assert len(rows) == 6 + 3
    assert all(row["tokens_per_s"] > 0 and row["peak_gib"] > 0 for row in rows)
    # A second call measures nothing again.
    again = launch(command, timeout=900)
    assert again.returncode == 0, again.stderr[-3000:]
    assert [json.loads(line) for line in (tmp_path / "measured.jsonl").read_text().splitlines()] == rows
    report = (tmp_path / "report.md").read_text()
    assert (report.count("\n| 4 | 1 |"), report.count("\n| 4 | 2 |")) == (6, 3)
    assert "no hf, hf-grouped, accelerate on more ranks" in report
