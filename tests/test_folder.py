"""What run.overwrite takes away, and what it leaves; test_old_outputs.py has the rest of the run folder."""

import re
from pathlib import Path

import pytest
import torch

from layoutner.config.errors import UserError
from layoutner.config.settings import load
from layoutner.training.folder import LOCK_FILE, RECORD, demand_folder, open_folder
from layoutner.training.world import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.mark.parametrize("key", ["eval", "test", "labels"])
def test_what_a_run_reads_is_not_removed(key: str, tmp_path: Path) -> None:
    place = tmp_path / "test_predictions.txt"
    for file in (tmp_path / "layoutner.json", place):
        file.touch()
    tree = {"run": {"output_dir": str(tmp_path), "overwrite": "true"}, "data": {key: str(place)}}
    with pytest.raises(UserError, match=re.escape(f"would remove what this run uses: {place};")):
        demand_folder(load(None, tree))


def test_a_link_is_removed_and_not_what_it_names(tmp_path: Path) -> None:
    """Checkpoints on another disk, and the rest of a run."""
    (tmp_path / "scratch" / "step-000001").mkdir(parents=True)
    (tmp_path / "scratch" / "step-000001" / "manifest.json").write_text("{}")
    run = tmp_path / "run"
    (run / "tensorboard").mkdir(parents=True)
    for file in ("layoutner.json", "wandb_run_id", "test_results.txt", "notes.txt"):
        (run / file).write_text("of before")
    (run / "checkpoints").symlink_to(tmp_path / "scratch")
    settings = load(None, {"run": {"output_dir": str(run), "overwrite": "true"}})
    demand_folder(settings)
    open_folder(settings, {}, {}, [], ALONE)
    assert sorted(path.name for path in run.iterdir()) == sorted([LOCK_FILE, *RECORD, "notes.txt"])
    assert (tmp_path / "scratch" / "step-000001" / "manifest.json").exists()
