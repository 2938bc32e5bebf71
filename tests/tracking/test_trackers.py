"""What the trackers hold: TensorBoard and metrics.jsonl the same steps and numbers, whatever came between."""

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from layoutner.distributed.ranks import Ranks
from layoutner.errors import CheckpointError, SettingsError
from layoutner.settings.tree import Settings, load
from layoutner.tracking.trackers import JsonLines, open_tracker
from layoutner.training.plan import make_plan
from tests.builders.disk import small_files
from tests.builders.forks import fork

ALONE = Ranks(rank=0, size=1, device=torch.device("cpu"))

Curves = dict[str, list[tuple[int, float]]]  # name -> (step, value), in the order they are shown


def settings_of(folder: Path, overwrite: str = "false", **tensorboard: object) -> Settings:
    folder.mkdir(exist_ok=True)
    values = {"enabled": "true", **{key: str(value) for key, value in tensorboard.items()}}
    return load(None, {"run": {"output_dir": str(folder), "overwrite": overwrite}, "tensorboard": values})


def shown(folder: Path) -> Curves:
    """What TensorBoard shows of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {name: [(event.step, event.value) for event in read.Scalars(name)] for name in read.Tags()["scalars"]}


def recorded(run: Path) -> Curves:
    """What metrics.jsonl holds, in the fp32 of event files."""
    curves: Curves = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        metrics: dict[str, Any] = json.loads(line)
        step = metrics.pop("step")
        for name, value in metrics.items():
            curves.setdefault(name, []).append((step, float(np.float32(value))))
    return curves


def metrics_of(step: int, start: int) -> dict[str, float]:
    evaluated = {"eval/f1": step / 7} if step % 2 == 0 else {}
    return {"train/loss": 1 / step + start, "train/skipped_steps": step // 3, **evaluated}


def test_tensorboard_shows_what_metrics_jsonl_holds_after_a_kill_too(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    open_ones = []  # not closed: as a kill leaves them
    for start, (resumed, last) in enumerate([(0, 5), (3, 6), (4, 9)]):
        tracker = open_tracker(settings, ALONE, resumed, dict)
        open_ones.append(tracker)
        for step in range(resumed + 1, last + 1):
            tracker.log(step, metrics_of(step, start))
            assert shown(tmp_path / "tensorboard") == recorded(tmp_path)
    files = sorted((tmp_path / "tensorboard").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    assert len(files) == 3
    with files[-1].open("ab") as file:
        file.write(b"\x18\x00\x00\x00\x00\x00\x00\x00\xa3\x7f")  # half a record
    assert [step for step, _ in shown(tmp_path / "tensorboard")["train/loss"]] == list(range(1, 10))
    tracker = open_tracker(settings, ALONE, 9, dict)
    tracker.log(10, metrics_of(10, 3))
    tracker.close()
    found = shown(tmp_path / "tensorboard")
    assert found == recorded(tmp_path)
    starts = [0, 0, 0, 1, 2, 2, 2, 2, 2, 3]
    assert [value for _, value in found["train/loss"]] == pytest.approx(
        [1 / step + start for step, start in enumerate(starts, 1)], rel=1e-6
    )
    assert [step for step, _ in found["eval/f1"]] == [2, 4, 6, 8, 10]
    for tracker in open_ones:
        tracker.close()


def test_curves_of_others_stay_in_a_folder_that_is_given(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "board") as other:
        for step in (50, 100):
            other.add_scalar("eval_f1", 0.5, step)
    tracker = open_tracker(settings_of(tmp_path / "run", dir=tmp_path / "board"), ALONE, 0, dict)
    tracker.log(1, {"train/loss": 0.5})
    tracker.close()
    assert shown(tmp_path / "board") == {"eval_f1": [(50, 0.5), (100, 0.5)], "train/loss": [(1, 0.5)]}


def test_a_folder_that_is_given_and_never_written_is_not_passed_over() -> None:
    with pytest.raises(SettingsError, match=r"\[tensorboard\]: dir = board, but enabled is not given: give enabled ="):
        load(None, {"tensorboard": {"dir": "board"}})
    assert load(None, {"tensorboard": {"dir": "board", "enabled": "false"}}).tensorboard.dir == Path("board")


@pytest.mark.parametrize("more", [{}, {"dir": "board", "overwrite": "true"}])
def test_a_fresh_start_in_the_same_folder_begins_anew(
    more: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_of(tmp_path / "run", **more)
    board = tmp_path / more.get("dir", "run/tensorboard")
    for start, last in enumerate((5, 2)):
        tracker = open_tracker(settings, ALONE, 0, dict)
        for step in range(1, last + 1):
            tracker.log(step, metrics_of(step, start))
        tracker.close()
    assert shown(board) == recorded(tmp_path / "run")
    assert shown(board)["train/loss"] == [(1, 2.0), (2, 1.5)]
    assert (tmp_path / "run" / "tensorboard").exists() == (not more)


def test_a_number_that_is_none_is_shown_as_it_is(tmp_path: Path) -> None:
    tracker = open_tracker(settings_of(tmp_path), ALONE, 0, dict)
    tracker.log(1, {"train/grad_norm": math.inf, "train/loss": math.nan})
    tracker.close()
    found = shown(tmp_path / "tensorboard")
    assert found["train/grad_norm"] == [(1, math.inf)]
    assert math.isnan(found["train/loss"][0][1])
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 1,
        "train/grad_norm": None,
        "train/loss": None,
    }


def test_other_ranks_and_a_switch_that_is_off_write_nothing(tmp_path: Path) -> None:
    tracker = open_tracker(settings_of(tmp_path), Ranks(rank=1, size=2, device=torch.device("cpu")), 0, dict)
    tracker.log(1, {"train/loss": 1.0})
    tracker.close()
    assert list(tmp_path.iterdir()) == []
    tracker = open_tracker(settings_of(tmp_path, enabled="false"), ALONE, 0, dict)
    tracker.log(1, {"train/loss": 1.0})
    tracker.close()
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n[]\n{"step": 2, "train/lo')
    tracker = open_tracker(settings_of(tmp_path, enabled="false"), ALONE, 2, dict)
    tracker.log(3, {"train/loss": 0.5})
    tracker.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 3, "train/loss": 0.5}\n'


def test_lines_of_before_outlive_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    with small_files(4), pytest.raises(CheckpointError, match="metrics.jsonl: cannot be written: .*too large"):
        JsonLines(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_folder_that_cannot_be_made_leaves_the_lines_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(SettingsError, match=r"tensorboard.dir = .*file/board: cannot be written: "):
        open_tracker(settings_of(tmp_path, dir=tmp_path / "file" / "board"), ALONE, 0, dict)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_a_missing_package_is_said_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # what `import` meets where it is not installed
    with pytest.raises(SettingsError, match=r"pip install 'layoutner\[tensorboard\]'"):
        make_plan(settings_of(tmp_path), 1)
    with pytest.raises(SettingsError, match="data.train is missing"):
        make_plan(settings_of(tmp_path, enabled="false"), 1)


def test_a_resumed_run_with_every_tracker(train_arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = {"tensorboard__enabled": "true", "wandb__mode": "offline", "data__eval": 0.25, "run__eval_every": 2}
    arguments = train_arguments(run, **more, run__save_every=3, run__keep_checkpoints=0, run__resume="auto")
    for step in (6, 3):
        done = fork(["layoutner", "train", *arguments])
        assert done.returncode == 0, done.stderr[-3000:]
        assert shown(run / "tensorboard") == recorded(run)
        for folder in (run / "checkpoints").glob("step-*"):
            if int(folder.name.removeprefix("step-")) > 3 and step == 6:
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()
    assert "resumed from" in done.stdout
    found = recorded(run)
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in found["eval/loss"]] == [2, 4, 6]
    assert len(list((run / "tensorboard").iterdir())) == 2
    offline = list((run / "wandb").glob("offline-run-*"))
    assert len(offline) == 2
    assert {folder.name.rpartition("-")[2] for folder in offline} == {(run / "wandb_run_id").read_text()}


def test_a_finished_run_that_is_started_again_has_its_scores_once(
    train_arguments: Callable[..., list[str]], forms: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = train_arguments(run, data__test=forms, schedule__max_steps=2, run__resume="auto")
    for _ in range(2):
        done = fork(["layoutner", "train", *arguments])
        assert done.returncode == 0, done.stderr[-3000:]
    assert [step for step, _ in recorded(run)["test/f1"]] == [2]


def test_metrics_that_cannot_be_written(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "metrics.jsonl", 0)
    file = lines._file.fileno()
    there = os.dup(file)
    os.dup2(os.open("/dev/full", os.O_WRONLY), file)
    with pytest.raises(
        CheckpointError, match=r"metrics.jsonl: step 3 cannot be written: .*No space left.*run.resume = auto"
    ):
        lines.log(3, {"train/loss": 1.0})
    os.dup2(there, file)
    lines.close()
