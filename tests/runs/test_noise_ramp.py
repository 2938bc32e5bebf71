"""`layoutner noise-ramp`: the ramp that follows the noise scales of a run."""

import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from layoutner.errors import CheckpointError
from layoutner.runs.noise_ramp import noise_ramp
from layoutner.settings.tree import Settings, load
from tests.builders.forks import fork
from tests.builders.processes import call

Arguments = Callable[..., list[str]]


def run_with(
    folder: Path, scales: Sequence[tuple[int, float | None]], steps: int, max_steps: int | None = None, **batch: object
) -> Path:
    """The folder of a run that measured these noise scales, by optimizer step."""
    schedule = {} if max_steps is None else {"max_steps": max_steps}
    (folder / "settings.toml").write_text(Settings(batch=batch, schedule=schedule).to_toml())
    rows = [{"step": step, "gradient/noise_scale_windows": scale} for step, scale in scales]
    rows += [{"step": steps, "train/loss": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_batch_is_the_largest_doubling_that_is_not_above_the_noise(tmp_path: Path) -> None:
    # 200 steps of 16 windows in ten parts: 320 windows each, so 20 steps of 16, 10 of 32, 5 of 64.
    by_part = (5, 31, 32, 20, 70, 63, 100, 127, 40, 60)
    scales = [(20 * part + more, scale) for part, scale in enumerate(by_part) for more in (1, 10, 20)]
    found = noise_ramp(run_with(tmp_path, scales, 200, global_batch_size=16))
    assert found.scales == by_part
    assert found.sizes == [16, 16, 32, 32, 64, 64, 64, 64, 64, 64]
    assert found.pairs == [[0, 16], [40, 32], [60, 64]]
    said = tomllib.loads(str(found))
    assert said == {
        "batch": {"global_batch_size": 64, "ramp": found.pairs, "reference_batch_size": 16},
        "optimizer": {"scale_lr": "sqrt"},
    }
    # They are settings.
    file = tmp_path / "next.toml"
    file.write_text(str(found))
    assert load(str(file), {}).batch.ramp == ((0, 16), (40, 32), (60, 64))


def test_the_median_of_a_part_counts_and_one_without_any_keeps_the_batch(tmp_path: Path) -> None:
    scales = [(step, 500.0 if step == 3 else 9.0) for step in range(1, 11)]
    scales += [(step, 16.0) for step in range(51, 61)]
    found = noise_ramp(run_with(tmp_path, scales, 100, global_batch_size=8))
    assert found.scales == (9.0, None, None, None, None, 16.0, None, None, None, None)
    assert found.pairs == [[0, 8], [50, 16]]


def test_the_steps_of_a_schedule_in_steps_change_too(tmp_path: Path) -> None:
    # 100 steps of 8 and, at the fifth of ten parts, an infinite noise scale: 40 steps of 8, then a step of 80 each.
    scales = [(step, 9.0 if step <= 40 else 1e9) for step in range(1, 101)] + [(90, None)]
    found = noise_ramp(run_with(tmp_path, scales, 100, max_steps=100, global_batch_size=8))
    said = tomllib.loads(str(found))
    assert said["batch"]["ramp"] == [[0, 8], [40, 64]]  # a part has 80 windows, so no more than 64
    assert said["schedule"] == {"max_steps": 40 + 6 * 2}  # 80 windows in two steps of 64 at most


def test_a_run_with_a_rule_keeps_it(tmp_path: Path) -> None:
    batch = {"global_batch_size": 8, "reference_batch_size": 4}
    found = noise_ramp(run_with(tmp_path, [(step, 99.0) for step in range(1, 201)], 200, **batch))
    # From the beginning it is the largest doubling: no ramp, another batch.
    assert tomllib.loads(str(found)) == {"batch": {"global_batch_size": 64}}


def test_noise_below_twice_the_batch_asks_for_no_ramp(tmp_path: Path) -> None:
    found = noise_ramp(run_with(tmp_path, [(step, 15.9) for step in range(1, 21)], 20, global_batch_size=8))
    assert "It stays below 16 windows, so twice the batch is never worth it here." in str(found)
    assert tomllib.loads(str(found)) == {}


def test_what_cannot_be_followed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match="settings.toml: cannot be read"):
        noise_ramp(tmp_path)
    few = run_with(tmp_path, [(step, 9.0) for step in range(1, 10)], 400)
    with pytest.raises(CheckpointError, match=r"9 of its 400 steps .* run.gradient_statistics_every = 4$"):
        noise_ramp(few)
    with pytest.raises(CheckpointError, match="had a batch.ramp already"):
        noise_ramp(run_with(tmp_path, [], 20, global_batch_size=16, ramp="0:8,4:16"))
    code, out, err = call(capsys, "noise-ramp", tmp_path / "nowhere")
    assert (code, out) == (2, "")
    assert "nowhere/settings.toml: cannot be read" in err


def test_a_real_run_is_read(train_arguments: Arguments, tmp_path: Path) -> None:
    run = tmp_path / "run"
    measured = {"schedule__max_steps": 20, "run__gradient_statistics_every": 1, "batch__global_batch_size": 4}
    done = fork(["layoutner", "train", *train_arguments(run, **measured)])
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scales = [row["gradient/noise_scale_windows"] for row in rows if "gradient/noise_scale_windows" in row]
    assert len(scales) >= 10
    found = noise_ramp(run)
    assert (found.steps, len(found.scales)) == (20, 10)
    assert all(min(scales) <= scale <= max(scales) for scale in found.scales if scale is not None)
    assert max(found.sizes) <= max(4, max(scales))
