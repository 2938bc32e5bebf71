"""`layoutner compare`: settings that differ, and what came of them."""

from pathlib import Path

import pytest

from layoutner.runs.compare import compare
from tests.builders.processes import call
from tests.builders.run_folder import run_folder


def test_settings_that_differ_and_results_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speeds = (100.0, 900.0, 200.0)
    rows = [{"step": n, "train/progress": n / 6, "throughput/tokens_per_s": v} for n, v in enumerate(speeds, 1)]
    one = run_folder(
        tmp_path / "one", [*rows, {"step": 4, "train/loss": 0.5, "best/f1": 0.25, "best/step": 2}], lr="1e-3"
    )
    other = run_folder(
        tmp_path / "another", [{"step": 6, "train/loss": None, "test/f1": 0.75}], name="lamb", lr="0.002"
    )
    code, out, err = call(capsys, "compare", one, other)
    assert (code, err) == (0, "")
    found = {line[: out.index(str(one))].strip(): line[out.index(str(one)) :].split() for line in out.splitlines()}
    assert found.pop("") == [str(one), str(other)]
    # What only one of the optimizers has differs, too.
    assert found.pop("optimizer.min_trust_ratio")[0] == "-"
    optimizers = {key: values for key, values in found.items() if key.startswith("optimizer.")}
    assert (optimizers["optimizer.name"], optimizers["optimizer.lr"]) == (["adamw", "lamb"], ["0.001", "0.002"])
    assert {key: values for key, values in found.items() if not key.startswith("optimizer.")} == {
        "state": ["stopped", "stopped"],
        "step": ["4", "of", "6", "6", "of", "?"],
        "train/loss": ["0.5000", "-"],
        "best/f1": ["0.2500", "-"],
        "best/step": ["2", "-"],
        "test/f1": ["-", "0.7500"],
        "throughput/tokens_per_s, median": ["200", "-"],
    }


def test_the_same_settings_have_no_line(tmp_path: Path) -> None:
    first, second = (run_folder(tmp_path / name, [{"step": 1}]) for name in ("a", "b"))
    assert [line.split()[0] for line in compare([first, second]).splitlines()[1:]] == ["state", "step"]


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "compare", run_folder(tmp_path / "a", []), tmp_path / "b")
    assert (code, out) == (2, "")
    assert f"{tmp_path / 'b'}: no run" in err
