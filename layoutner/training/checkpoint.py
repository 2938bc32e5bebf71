"""Checkpoints of a run: written under another name, renamed when complete, found again."""

import json
import re
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from layoutner.config.errors import UserError, first_line
from layoutner.config.settings import Settings
from layoutner.training.engine import Engine
from layoutner.training.world import World

FOLDER = "checkpoints"
STATE_FILE = "state.json"
WEIGHTS_FILE = "model.safetensors"  # all weights as trained: what export, evaluation and prediction read
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class TrainState:
    """Where a run stands. The step plan depends on the seed and the step alone, so this is all it takes."""

    step: int  # optimizer steps done, skipped ones included
    best_step: int | None = None  # step of the best checkpoint so far, by F1 on data.eval
    best_f1: float = 0.0
    best_loss: float = 0.0  # between equal F1, the lower loss is the better


def checkpoint_path(run: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` optimizer steps."""
    return run / FOLDER / f"step-{step:06d}"


def complete_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run folder, oldest first."""
    folders = [f for f in (run / FOLDER).glob("step-*") if _NAME.fullmatch(f.name) and (f / STATE_FILE).is_file()]
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("step-")))


def read_state(checkpoint: Path) -> TrainState:
    """State of a complete checkpoint.

    Raises:
        UserError: not a complete checkpoint.
    """
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        return TrainState(**{field.name: state[field.name] for field in fields(TrainState)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{checkpoint}: not a complete layoutner checkpoint: {error}") from None


def save(engine: Engine, run: Path, state: TrainState, shape: dict[str, object], keep: int, world: World) -> None:
    """Write the checkpoint of `state.step` on all ranks, then remove those that are no longer kept.

    It appears under its name only when every file of every rank is in place.

    Args:
        shape: what another run must share to resume from it (ranks, ZeRO stage, number format).
        keep: how many of the newest stay, beside the best; 0 = all.

    Raises:
        UserError: it could not be written; what was there before still is.
    """
    folder, final = run / FOLDER, checkpoint_path(run, state.step)
    partial = f".{final.name}.partial"
    world.on_main(lambda: _remove_torn(folder))
    try:
        engine.save(folder, partial, asdict(state))
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        raise UserError(_not_written(final, error)) from None
    weights = engine.weights()

    def finish() -> None:
        save_file(weights, folder / partial / WEIGHTS_FILE, metadata={"format": "pt"})
        (folder / partial / STATE_FILE).write_text(json.dumps({**asdict(state), **shape}), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        (folder / partial).rename(final)
        if keep:
            best = checkpoint_path(run, state.best_step) if state.best_step is not None else None
            for old in complete_checkpoints(run)[:-keep]:
                if old != best:
                    shutil.rmtree(old)

    def finish_or_say() -> None:
        try:
            finish()
        except (OSError, SafetensorError) as error:
            raise UserError(_not_written(final, error)) from None

    world.on_main(finish_or_say)


def _remove_torn(folder: Path) -> None:
    for torn in folder.glob(".step-*.partial"):
        shutil.rmtree(torn, ignore_errors=True)


def _not_written(checkpoint: Path, error: Exception) -> str:
    return (
        f"{checkpoint}: could not be written: {first_line(error)}; the checkpoints before it are as they "
        "were: make room, then go on with run.resume = auto"
    )


def to_resume(settings: Settings, shape: dict[str, object]) -> Path | None:
    """The checkpoint that run.resume asks for; None for a fresh start.

    Raises:
        UserError: "never" in a folder that holds checkpoints, "must" or a path without one, or a checkpoint of
            another shape.
    """
    run, resume = settings.run.output_dir, settings.run.resume
    there = complete_checkpoints(run)
    if resume == "never":
        if there:
            raise UserError(
                f"run.output_dir = {run} holds {len(there)} checkpoint(s), the newest {there[-1].name}: "
                "run.resume = auto goes on from there; to start afresh give another run.output_dir"
            )
        return None
    if resume in ("auto", "must"):
        if not there and resume == "must":
            raise UserError(f"run.resume = must, but {run / FOLDER} holds no complete checkpoint")
        checkpoint = there[-1] if there else None
    else:
        checkpoint = Path(resume)
    if checkpoint is None:
        return None
    newer = [other.name for other in there[-1:] if checkpoint.resolve() in (c.resolve() for c in there[:-1])]
    if newer:
        raise UserError(
            f"run.resume = {resume}: {newer[0]} stands beside it and is newer, and would be taken for this run's; "
            "to branch off there, give another run.output_dir"
        )
    read_state(checkpoint)
    saved = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    differs = [
        f"{key} = {saved.get(key)} there, {value} here" for key, value in shape.items() if saved.get(key) != value
    ]
    if differs:
        raise UserError(f"{checkpoint}: cannot be resumed by this run: {'; '.join(differs)}")
    return checkpoint
