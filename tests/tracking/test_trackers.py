"""What the trackers hold: TensorBoard and metrics.jsonl the same steps and numbers, whatever came between."""

import json
import math
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from torch.utils.tensorboard import SummaryWriter

from layoutner.distributed.ranks import Ranks
from layoutner.errors import CheckpointError, Preempted, SettingsError
from layoutner.runs.folds import settings_of_fold
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


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What wandb.init is given, and what its runs log, in their order."""
    calls: list[dict[str, Any]] = []

    def init(**given: Any) -> SimpleNamespace:
        calls.append(given)
        return SimpleNamespace(
            log=lambda metrics, step: calls.append({**metrics, "at": step}),
            finish=lambda exit_code=0: calls.append({"exit code": exit_code}) if exit_code else None,
            define_metric=lambda name, summary: None,
            mark_preempting=lambda: calls.append({"preempting": True}),
            summary={},
        )

    monkeypatch.setattr(wandb, "init", init)
    return calls


def online(folder: Path, **more: str) -> Settings:
    folder.mkdir()
    return load(None, {"run": {"output_dir": str(folder)}, "wandb": {"mode": "online", **more}})


def test_a_run_of_wandb_goes_on_where_it_is_resumed_alone(told: list[dict[str, Any]], tmp_path: Path) -> None:
    settings = online(tmp_path / "run")
    for step in (4, 5, 0):  # the first was resumed from checkpoints without their record
        open_tracker(settings, ALONE, step, dict).close()
    first, resumed, fresh = told
    assert first["id"] == resumed["id"] != fresh["id"] == (tmp_path / "run" / "wandb_run_id").read_text()
    assert {(one["name"], one["resume"]) for one in told} == {("run", "allow")}
    assert first["group"] is None


def test_a_run_of_wandb_may_belong_to_a_group(told: list[dict[str, Any]], tmp_path: Path) -> None:
    settings = online(tmp_path / "run", name="lr=0.1", group="sweep")
    open_tracker(settings, ALONE, 0, dict).close()
    assert (told[0]["name"], told[0]["group"]) == ("lr=0.1", "sweep")
    folds = settings.model_copy(update={"data": settings.data.model_copy(update={"folds": 3})})
    assert settings_of_fold(folds, 1).wandb.group == "sweep"
    assert settings_of_fold(load(None, {"data": {"folds": "3"}}), 1).wandb.group == "train"


@pytest.mark.parametrize(("variable", "mode"), [("offline", "offline"), ("", "online")])
def test_the_environment_takes_wandb_offline(
    variable: str, mode: str, told: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", variable)
    tracker = open_tracker(online(tmp_path / "run"), ALONE, 0, dict)
    tracker.log(7, {"train/loss": 0.5})
    tracker.close()
    start, logged = told
    assert (start["mode"], logged) == (mode, {"train/loss": 0.5, "at": 7})


def test_wandb_is_told_of_a_preemption(told: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(Preempted), open_tracker(online(tmp_path / "run"), ALONE, 0, dict).finished_with(ALONE):
        raise Preempted("SIGTERM: saved")
    assert told[1:] == [{"preempting": True}, {"exit code": 1}]


def records(file: Path) -> Iterator[bytes]:
    """The records of a file of wandb: LevelDB's log format, in blocks of 32 KiB, after a header of 7 bytes."""
    content, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left  # padding
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)  # after a checksum
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def history(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The logged steps of an offline run of wandb, and its configuration."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("*.wandb")
    rows: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    for data in records(file):
        record = Record()
        record.ParseFromString(data)
        if items := record.history.item:
            rows.append({one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in items})
        config |= {one.key: json.loads(one.value_json) for one in record.run.config.update}
    return rows, config


def test_an_offline_run_of_wandb_has_everything(
    train_arguments: Callable[..., list[str]], forms: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    more = {"wandb__mode": "offline", "data__eval": 0.25, "data__test": forms, "run__eval_every": 2}
    done = fork(["layoutner", "train", *train_arguments(run, **more)], WANDB_API_KEY="0123456789" * 4)
    assert done.returncode == 0, done.stderr[-3000:]
    (offline,) = (run / "wandb").glob("offline-run-*")
    rows, config = history(offline)
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps)) == list(range(1, 7))
    scores = json.loads((run / "scores.json").read_text())
    assert rows[-1]["test/f1"] == scores["f1"]
    assert {name for name in rows[-1] if name.startswith("test/by_entity/")} == {
        f"test/by_entity/{kind}/f1" for kind in scores["by_entity"]
    }
    (best,) = {row["best/f1"] for row in rows if row.get("best/step") == scores["checkpoint"]["step"]}
    assert best == max(row["eval/f1"] for row in rows if "eval/f1" in row)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [{"step": row["_step"]} | {name: row[name] for name in row if "/" in name} for row in rows] == lines
    assert config["environment"]["world_size"] == 1
    assert config["deepspeed_json"] == json.loads((run / "ds_config.json").read_text())
    assert "windows per step" in config["plan"]
    assert config["batch"]["global_batch_size"] == 8
    assert all(b"0123456789" * 4 not in file.read_bytes() for file in run.rglob("*") if file.is_file())


def test_a_finished_run_that_is_started_again_has_its_scores_once(
    train_arguments: Callable[..., list[str]], forms: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = train_arguments(run, data__test=forms, schedule__max_steps=2, run__resume="auto")
    for _ in range(2):
        done = fork(["layoutner", "train", *arguments])
        assert done.returncode == 0, done.stderr[-3000:]
    assert [step for step, _ in recorded(run)["test/f1"]] == [2]


def test_wandb_that_does_not_start_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise wandb.errors.UsageError("api_key not configured (no-tty).\nmore")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(
        SettingsError, match=r"wandb.mode = online: .*not configured.*log in with `wandb login`"
    ) as found:
        open_tracker(online(tmp_path / "run"), ALONE, 0, dict)
    assert "\n" not in str(found.value)


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
