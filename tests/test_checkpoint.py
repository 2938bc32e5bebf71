"""What counts as a checkpoint, and which one is taken."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from layoutner.config.errors import UserError
from layoutner.config.settings import load
from layoutner.inference.export import chosen_checkpoint
from layoutner.training.checkpoint import TrainState, checkpoint_path, complete_checkpoints, read_state, to_resume

SHAPE: dict[str, object] = {"ranks": 2, "zero_stage": 0}


def checkpoint(run: Path, step: int, best: int | None = None) -> Path:
    folder = checkpoint_path(run, step)
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({**asdict(TrainState(step, best, 0.5, 1.0)), **SHAPE}))
    return folder


def resumed(run: Path, resume: str, shape: dict[str, object] = SHAPE) -> Path | None:
    return to_resume(load(None, {"run": {"output_dir": str(run), "resume": resume}}), shape)


def test_a_checkpoint_is_complete_under_its_own_name_with_its_state(tmp_path: Path) -> None:
    checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 1_000_000)
    checkpoint(tmp_path, 30)
    (tmp_path / "checkpoints" / "step-000099").mkdir()  # no state: torn
    (tmp_path / "checkpoints" / ".step-000100.partial").mkdir()
    (tmp_path / "checkpoints" / "step-old").mkdir()
    assert [folder.name for folder in complete_checkpoints(tmp_path)] == ["step-000002", "step-000030", "step-1000000"]


def test_auto_takes_the_newest_or_starts_afresh(tmp_path: Path) -> None:
    assert resumed(tmp_path, "auto") is None
    checkpoint(tmp_path, 3)
    newest = checkpoint(tmp_path, 20)
    assert resumed(tmp_path, "auto") == resumed(tmp_path, "must") == newest
    assert resumed(tmp_path / "other", str(newest)) == newest
    assert resumed(tmp_path, str(newest)) == newest
    with pytest.raises(UserError, match="step-000020 stands beside it and is newer"):
        resumed(tmp_path, str(checkpoint_path(tmp_path, 3)))


def test_resume_is_fatal_when_asked_for_and_not_to_be_had(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        resumed(tmp_path, "must")
    with pytest.raises(UserError, match="not a complete layoutner checkpoint"):
        resumed(tmp_path, str(tmp_path))
    checkpoint(tmp_path, 1)
    with pytest.raises(UserError, match="the newest step-000001: run.resume = auto goes on"):
        resumed(tmp_path, "never")
    with pytest.raises(UserError, match="ranks = 2 there, 4 here"):
        resumed(tmp_path, "auto", {**SHAPE, "ranks": 4})


def test_the_best_checkpoint_is_exported_else_the_newest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to export"):
        chosen_checkpoint(tmp_path)
    checkpoint(tmp_path, 1)
    newest = checkpoint(tmp_path, 2)
    assert chosen_checkpoint(tmp_path) == newest
    checkpoint(tmp_path, 3, best=1)
    assert chosen_checkpoint(tmp_path).name == "step-000001"


def test_a_state_that_cannot_be_read(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / "state.json").write_text('{"step": 1}')
    with pytest.raises(UserError, match="not a complete layoutner checkpoint"):
        read_state(folder)
