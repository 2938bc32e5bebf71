"""What counts as a checkpoint, which one is taken, and what happens to torn, altered and unwritable ones."""

import json
import logging
import os
from pathlib import Path

import pytest

from layoutner.errors import CheckpointError
from layoutner.inference.export import chosen_checkpoint, export, undamaged_checkpoints
from layoutner.settings.tree import load
from layoutner.training.checkpoint import Identity, changes, has_best, select_checkpoint
from layoutner.training.checkpoint_files import (
    Record,
    TrainState,
    checkpoint_path,
    complete_checkpoints,
    read_record,
    verify,
)
from tests.builders.checkpoints import IDENTITY, checkpoint


def resumed(run: Path, resume: str, identity: Identity = IDENTITY, total: int = 50) -> Path | None:
    return select_checkpoint(load(None, {"run": {"output_dir": str(run), "resume": resume}}), identity, total)


def names(run: Path) -> list[str]:
    return [folder.name for folder in complete_checkpoints(run)]


def test_a_checkpoint_is_complete_when_its_manifest_says_so(tmp_path: Path) -> None:
    checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 1_000_000)
    checkpoint(tmp_path, 30)
    (tmp_path / "checkpoints" / "step-000099").mkdir()  # no manifest: torn
    (tmp_path / "checkpoints" / ".step-000100.partial").mkdir()
    (tmp_path / "checkpoints" / "step-old").mkdir()
    assert names(tmp_path) == ["step-000002", "step-000030", "step-1000000"]
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-000030\n"
    assert verify(checkpoint_path(tmp_path, 30)) is None


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 7):
        checkpoint(tmp_path, step, best=2 if step > 1 else None, keep=2)
    assert names(tmp_path) == ["step-000002", "step-000005", "step-000006"]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_auto_takes_the_newest_or_starts_afresh(tmp_path: Path) -> None:
    assert resumed(tmp_path, "auto") is None
    checkpoint(tmp_path, 3)
    newest = checkpoint(tmp_path, 20)
    assert resumed(tmp_path, "auto") == resumed(tmp_path, "must") == newest
    assert resumed(tmp_path / "other", str(newest)) == newest
    assert resumed(tmp_path, str(newest)) == newest
    with pytest.raises(CheckpointError, match="step-000020 in the same folder is newer"):
        resumed(tmp_path, str(checkpoint_path(tmp_path, 3)))


def test_a_checkpoint_that_leaves_nothing_to_train(tmp_path: Path) -> None:
    newest = checkpoint(tmp_path, 4)
    assert resumed(tmp_path, "auto", total=4) == newest  # a run that is done is exported and scored again
    assert resumed(tmp_path / "other", str(newest), total=5) == newest
    for run, resume, total in ((tmp_path, "auto", 3), (tmp_path / "other", str(newest), 4)):
        with pytest.raises(
            CheckpointError, match=f"after 4 optimizer steps, and this run has {total}: .*longer schedule"
        ):
            resumed(run, resume, total=total)


FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("harm", ["cut", "gone", "altered"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    file: str, harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    path = newer / file
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with caplog.at_level(logging.WARNING):
        assert resumed(tmp_path, "auto") == older
    assert f"{newer} is damaged" in caplog.text
    with pytest.raises(CheckpointError, match="not a complete layoutner checkpoint"):
        resumed(tmp_path, str(newer))
    # Nothing is lost for what goes on: the same step is written again over the damaged one.
    assert resumed(tmp_path, "must") == older
    checkpoint(tmp_path, 2)
    assert resumed(tmp_path, "must") == newer


def test_nothing_but_damaged_checkpoints_is_not_a_fresh_start(tmp_path: Path) -> None:
    (checkpoint(tmp_path, 1) / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="every checkpoint in .* is damaged"):
        resumed(tmp_path, "auto")


def test_resume_is_fatal_when_asked_for_and_not_to_be_had(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        resumed(tmp_path, "must")
    with pytest.raises(CheckpointError, match="not a complete layoutner checkpoint"):
        resumed(tmp_path, str(tmp_path))
    checkpoint(tmp_path, 1)
    with pytest.raises(CheckpointError, match="the newest step-000001: run.resume = auto goes on"):
        resumed(tmp_path, "never")
    with pytest.raises(CheckpointError, match="seed = 1 there, 2 here"):
        resumed(tmp_path, "auto", Identity({"seed": 2}, {}, 2))
    # What only one of the two has counts, too.
    with pytest.raises(CheckpointError, match=r"ramp = None there, \[\[0, 4\], \[9, 8\]\] here"):
        resumed(tmp_path, "auto", Identity({"seed": 1, "ramp": [[0, 4], [9, 8]]}, {}, 2))
    with pytest.raises(CheckpointError, match="seed = 1 there, None here"):
        resumed(tmp_path, "auto", Identity({}, {}, 2))


def test_a_run_that_put_windows_in_another_order_is_refused_in_one_message(tmp_path: Path) -> None:
    checkpoint(tmp_path, 1)  # as an earlier release wrote it, which named no order
    with pytest.raises(CheckpointError) as refused:
        resumed(tmp_path, "auto", Identity({"seed": 2, "window_order": "feistel"}, {}, 2))
    assert "puts the windows of an epoch in another order (shuffled list there, feistel here)" in str(refused.value)
    assert "seed" not in str(refused.value)


def test_what_has_changed_is_listed() -> None:
    saved = Record(state=TrainState(1), engine={}, **vars(IDENTITY))
    assert changes(saved, IDENTITY) == []
    now = Identity({"seed": 1}, {"optimizer": {"lr": 0.2}, "run": {"resume": "auto"}}, world_size=3)
    assert changes(saved, now) == ["ranks 2 -> 3", "optimizer.lr 0.1 -> 0.2"]


@pytest.mark.parametrize("what", ["full", "read-only"])
def test_what_cannot_be_written_leaves_what_was_there(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(tmp_path, 1)

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device") if what == "full" else PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match="could not be written.*the earlier checkpoints are unchanged"):
        checkpoint(tmp_path, 2)
    assert names(tmp_path) == ["step-000001"]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["latest", "step-000001"]
    assert verify(checkpoint_path(tmp_path, 1)) is None


def test_the_best_checkpoint_is_exported_else_the_newest(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to export"):
        chosen_checkpoint(tmp_path)
    checkpoint(tmp_path, 1)
    newest = checkpoint(tmp_path, 2)
    assert chosen_checkpoint(tmp_path) == newest
    checkpoint(tmp_path, 3, best=1)
    assert chosen_checkpoint(tmp_path).name == "step-000001"


def test_a_damaged_checkpoint_is_not_exported_or_scored(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="model.safetensors has changed since it was written"):
        export(tmp_path, tmp_path / "out")
    checkpoint(tmp_path, 2)
    with pytest.raises(CheckpointError, match="^damaged: .*step-000001: model.safetensors has changed"):
        undamaged_checkpoints(tmp_path)


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    with pytest.raises(CheckpointError, match="not a complete layoutner checkpoint"):
        read_record(tmp_path)
    assert json.loads((folder / "manifest.json").read_text())["files"].keys() == set(FILES) - {"manifest.json"}


def test_a_damaged_later_checkpoint_does_not_cost_the_one_just_written(tmp_path: Path) -> None:
    checkpoint(tmp_path, 25)
    damaged = checkpoint(tmp_path, 30) / "model.safetensors"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # in full length, so it counts as complete
    newest = checkpoint(tmp_path, 26, keep=1)
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-000026\n"
    assert resumed(tmp_path, "auto") == newest
    assert "step-000025" not in names(tmp_path)


def test_the_same_command_once_more_goes_on_from_the_runs_own_checkpoints(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = checkpoint(tmp_path / "source", 5)
    assert resumed(tmp_path / "run", str(source)) == source
    own = checkpoint(tmp_path / "run", 7)
    with caplog.at_level(logging.WARNING):
        assert resumed(tmp_path / "run", str(source)) == own
    assert "resumes from its own checkpoints" in caplog.text


def test_a_best_checkpoint_that_is_gone_is_not_counted_on(tmp_path: Path) -> None:
    checkpoint(tmp_path, 1)
    assert has_best(tmp_path, TrainState(2))
    assert has_best(tmp_path, TrainState(2, best_step=1))
    assert not has_best(tmp_path, TrainState(2, best_step=2))
