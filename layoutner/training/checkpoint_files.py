"""The files of a run's checkpoints: names, completeness and train state. Does not import torch, so it is fast.

RUN/checkpoints/step-000123/
    model.safetensors      all weights in their training dtype, for export and prediction: with averaging, the averaged
    optimizer.safetensors  fp32 weights, optimizer state and average of every trained parameter, not partitioned
    state.json             the train state, and the values that a run must have in common to resume from it
    manifest.json          size and SHA-256 of the other three files; a folder without it is not a checkpoint
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from layoutner.errors import CheckpointError, LayoutnerError, first_line
from layoutner.files.artefact import Artefact, FileEntry, sha256
from layoutner.settings.tree import RunSettings

FOLDER = "checkpoints"
STATE_FILE = "state.json"
WEIGHTS_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
MANIFEST_FILE = "manifest.json"
LATEST_FILE = "latest"  # name of the newest complete checkpoint, for people and scripts
NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class TrainState:
    """Position of a run. The batches depend only on the seed and the step, so nothing else is needed to resume."""

    step: int  # optimizer steps done, skipped ones included
    best_step: int | None = None  # step of the best checkpoint so far, by F1 on data.eval
    best_f1: float = 0.0
    best_loss: float = 0.0  # if F1 is equal, the checkpoint with the lower loss is better
    waited: int = 0  # evaluations since the best one


class Record(Artefact):
    """The file state.json."""

    refused_as: ClassVar[type[LayoutnerError]] = CheckpointError

    state: TrainState
    engine: dict[str, Any]  # counters of the engine
    must_match: dict[str, Any]  # what another run must share, or the numbers would mean something else
    settings: dict[str, dict[str, Any]]  # the whole tree, to say what has changed
    world_size: int


class Manifest(Artefact):
    """The file manifest.json."""

    refused_as: ClassVar[type[LayoutnerError]] = CheckpointError

    files: dict[str, FileEntry]


def checkpoint_path(run: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` optimizer steps."""
    return run / FOLDER / f"step-{step:06d}"


def complete_checkpoints(run: Path) -> list[Path]:
    """Checkpoints of a run folder whose files all exist in full length, oldest first. `verify` checks the contents."""
    folders = [f for f in (run / FOLDER).glob("step-*") if NAME.fullmatch(f.name) and not torn(f)]
    return sorted(folders, key=step_of)


def is_own(name: str) -> bool:
    """Whether this is the name of a checkpoint or of another file that a run writes to its checkpoints folder."""
    return name == LATEST_FILE or NAME.fullmatch(name) is not None


def torn(checkpoint: Path) -> str | None:
    """What is missing in a checkpoint according to its manifest; None if every file has its full length.

    Raises:
        CheckpointError: a newer layoutner has written it.
    """
    try:
        for name, expected in Manifest.read(checkpoint / MANIFEST_FILE).files.items():
            size = (checkpoint / name).stat().st_size
            if size != expected.bytes:
                return f"{name} has {size} bytes instead of {expected.bytes}"
    except (OSError, ValueError) as error:
        return first_line(error)
    return None


def verify(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None if all checksums are correct. Reads all files."""
    if problem := torn(checkpoint):
        return problem
    for name, expected in Manifest.read(checkpoint / MANIFEST_FILE).files.items():
        if sha256(checkpoint / name) != expected.sha256:
            return f"{name} has changed since it was written"
    return None


def read_record(checkpoint: Path) -> Record:
    """Record of a complete checkpoint.

    Raises:
        CheckpointError: not a complete checkpoint, or a newer layoutner has written it.
    """
    try:
        if not (problem := torn(checkpoint)):
            return Record.read(checkpoint / STATE_FILE)
    except (OSError, ValueError) as error:
        problem = f"{STATE_FILE}: {first_line(error)}"
    raise CheckpointError(f"{checkpoint}: not a complete layoutner checkpoint: {problem}")


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def torn_checkpoints(run: Path) -> list[Path]:
    """Checkpoints of a run folder that are not complete."""
    there = complete_checkpoints(run)
    return [f for f in sorted((run / FOLDER).glob("step-*")) if NAME.fullmatch(f.name) and f not in there]


def require_resumable(settings: RunSettings) -> None:
    """Refuse a run whose run.resume does not fit its run folder. Does not read weights.

    Raises:
        CheckpointError: run.resume is "never", the folder contains checkpoints and run.overwrite is false; or it is
            "must" or a path, and there is no checkpoint.
    """
    run, resume = settings.output_dir, settings.resume
    if settings.overwrite:
        return
    there = complete_checkpoints(run)
    if resume == "never" and there:
        raise CheckpointError(
            f"run.output_dir = {run} holds {len(there)} checkpoint(s), the newest {there[-1].name}: "
            "run.resume = auto goes on from there; to start again, give another run.output_dir, or "
            "run.overwrite = true, which removes them"
        )
    if resume == "must" and not there and not torn_checkpoints(run):
        raise CheckpointError(f"run.resume = must, but {run / FOLDER} holds no complete checkpoint")
    # If the run has its own checkpoints, it resumes from those.
    if resume not in ("never", "auto", "must") and not there and (problem := torn(Path(resume))):
        raise CheckpointError(f"run.resume = {resume}: not a complete layoutner checkpoint: {problem}")
