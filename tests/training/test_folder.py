"""What run.overwrite takes away, and what it leaves; test_old_outputs.py has the rest of the run folder."""

import gc
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from layoutner.distributed.ranks import Ranks
from layoutner.errors import CheckpointError, ModelError, SettingsError
from layoutner.models.preprocessing import Preprocessing
from layoutner.settings.tree import load
from layoutner.training.folder import (
    LOCK_FILE,
    RECORD,
    held_folders,
    lock,
    open_folder,
    read_training_pages,
    require_folder,
)
from tests.builders.forks import fork

pytestmark = pytest.mark.usefixtures("folders_let_go")

PREPROCESSING = Preprocessing(
    family="bert", scheme="BIO", labels=("O",), max_length=64, stride=8, box_level="word", images="ignore"
)
ALONE = Ranks(rank=0, size=1, device=torch.device("cpu"))


@pytest.mark.parametrize("key", ["eval", "test", "labels"])
def test_what_a_run_reads_is_not_removed(key: str, tmp_path: Path) -> None:
    place = tmp_path / "test_predictions.txt"
    for file in (tmp_path / "layoutner.json", place):
        file.touch()
    tree = {"run": {"output_dir": str(tmp_path), "overwrite": "true"}, "data": {key: str(place)}}
    with pytest.raises(SettingsError, match=re.escape(f"would remove what this run uses: {place};")):
        require_folder(load(None, tree))


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
    require_folder(settings)
    open_folder(settings, {}, PREPROCESSING, np.array([5, 2**64 - 1], np.uint64), "the plan", ALONE)
    assert sorted(path.name for path in run.iterdir()) == sorted([LOCK_FILE, *RECORD, "notes.txt"])
    assert (run / "training_pages.txt").read_text() == "0000000000000005\nffffffffffffffff\n"
    pages = read_training_pages(run)
    assert pages is not None
    assert pages.tolist() == [5, 2**64 - 1]
    (run / "training_pages.txt").write_text("page-1\n")
    with pytest.raises(ModelError, match="holds something else than digests of 16 hexadecimal digits"):
        read_training_pages(run)
    assert (tmp_path / "scratch" / "step-000001" / "manifest.json").exists()


def test_a_run_lets_go_of_its_folder_at_its_end(tmp_path: Path) -> None:
    settings = load(None, {"run": {"output_dir": str(tmp_path)}})
    with suppress(KeyError), held_folders():  # whatever its end is
        require_folder(settings)
        with pytest.raises(CheckpointError, match="another run is writing there"):
            lock(tmp_path)
        raise KeyError
    lock(tmp_path).release()


@pytest.mark.filterwarnings("error")
def test_a_lock_that_is_not_taken_is_closed(tmp_path: Path) -> None:
    with lock(tmp_path), pytest.raises(CheckpointError, match="another run is writing there"):
        lock(tmp_path)
    gc.collect()  # a file that is still open warns here


ENDS = """
import gc, sys, warnings
from layoutner.cli import main
warnings.simplefilter("default", ResourceWarning)
code = 0
try:
    main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
gc.collect()
print("code", code)
"""


@pytest.mark.parametrize("more", [{}, {"optimizer__lr": 1e30, "optimizer__max_grad_norm": 0}], ids=["ends", "fails"])
def test_nothing_that_a_run_opened_is_open_at_its_end(
    more: dict[str, object], train_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    arguments = train_arguments(tmp_path / "run", **more, tensorboard__enabled="true")
    done = fork(["-c", ENDS, "train", *arguments])
    assert f"code {2 if more else 0}" in done.stdout, done.stderr
    assert str(tmp_path / "run") not in "".join(line for line in done.stderr.splitlines() if "Warning" in line)
    assert "Exception ignored" not in done.stderr
