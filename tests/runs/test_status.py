"""`layoutner status`: how far a run is, from its folder."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from layoutner.files.lock import Lock
from layoutner.runs.status import read_status
from tests.builders.forks import Forks, fork
from tests.builders.processes import HANGS_S, call

Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def finished(train_arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("status") / "run"
    more = {"schedule__max_steps": 4, "data__eval": 0.25, "run__eval_every": 2, "run__log_every": 2}
    done = fork(["layoutner", "train", *train_arguments(run, **more)])
    assert done.returncode == 0, done.stderr[-3000:]
    return run


def test_a_finished_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.utime(finished / "metrics.jsonl", (time.time() - 3600, time.time() - 3600))
    found = read_status(finished)
    assert (found.state, found.metrics["step"], found.metrics["train/progress"]) == ("finished", 4, 1.0)
    assert found.seconds == pytest.approx(3600, abs=30)
    code, out, err = call(capsys, "status", finished, finished)
    assert (code, err) == (0, "")
    head, step, metrics, best, checkpoint = out.splitlines()[:5]
    assert out.splitlines()[5:6] == [head] == [f"{finished}: finished"]
    assert step.startswith("  step 4 of 4; written 1:00:")
    assert f"loss {found.metrics['train/loss']:.4f}, lr " in metrics
    assert best == f"  best eval f1 {found.metrics['best/f1']:.4f}, after step {found.metrics['best/step']}"
    assert checkpoint.endswith(("step-000004", "step-000002"))


def test_a_run_whose_lock_is_held_is_running_and_one_without_an_export_stopped(finished: Path) -> None:
    with Lock(finished / ".lock"):
        assert read_status(finished).state == "running"
    export = (finished / "export").rename(finished / "elsewhere")
    assert read_status(finished).state == "stopped"
    export.rename(finished / "export")
    assert read_status(finished).state == "finished"
    newest = read_status(finished).checkpoint
    assert newest is not None
    times = newest.stat()
    os.utime(newest)  # the run has gone on after its export
    assert read_status(finished).state == "stopped"
    os.utime(newest, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_the_steps_of_the_run_are_those_of_a_line_that_knows_them(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text((finished / "settings.toml").read_text())
    rows = [{"step": 50, "train/progress": 0.05, "train/loss": 1.0}, {"step": 60, "eval/f1": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "  step 60 of 1000; written " in str(read_status(tmp_path))


def test_a_run_at_work_is_left_alone(train_arguments: Arguments, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = train_arguments(run, schedule__max_steps=100_000, run__log_every=1)
    with Forks(["layoutner", "train", *arguments]) as forks:
        until = time.monotonic() + HANGS_S
        while not (run / "settings.toml").exists() or read_status(run).seconds is None:
            assert time.monotonic() < until
            assert forks.processes[0].is_alive(), forks.text()
            time.sleep(0.1)
        said = read_status(run)
        assert said.state == "running"
        assert f"step {said.metrics['step']} of 100000, " in str(said)
        assert forks.processes[0].is_alive()
    assert read_status(run).state == "stopped"


def test_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "status", tmp_path)
    assert (code, out) == (2, "")
    assert f"{tmp_path}: no run, or one that still prepares its first step: settings.toml is missing" in err


def test_the_others_are_shown_all_the_same(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "status", tmp_path, finished)
    assert (code, out.splitlines()[0]) == (2, f"{finished}: finished")
    assert f"{tmp_path}: no run" in err
