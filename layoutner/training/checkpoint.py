"""Checkpoints of a run: written beside, flushed, listed in a manifest, renamed last; verified when they are read.

RUN/checkpoints/step-000123/
    model.safetensors      all weights in the number format they are trained in: what export and prediction read
    optimizer.safetensors  fp32 weights and Adam's two moments of every trained parameter, whole
    state.json             where the run stands, and what another run must share to go on from there
    manifest.json          bytes and SHA-256 of the other three; a folder without it is no checkpoint

Nothing in it depends on the number of ranks or the ZeRO stage, and nothing is a pickle, so nothing in it can run code.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from layoutner.config.errors import UserError, first_line
from layoutner.config.settings import Settings
from layoutner.training.engine import Engine
from layoutner.training.world import World

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
STATE_FILE = "state.json"
WEIGHTS_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
MANIFEST_FILE = "manifest.json"
LATEST_FILE = "latest"  # name of the newest complete checkpoint, for people and scripts
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class TrainState:
    """Where a run stands. The step plan depends on the seed and the step alone, so this is all it takes."""

    step: int  # optimizer steps done, skipped ones included
    best_step: int | None = None  # step of the best checkpoint so far, by F1 on data.eval
    best_f1: float = 0.0
    best_loss: float = 0.0  # between equal F1, the lower loss is the better


@dataclass(frozen=True)
class Identity:
    """What a run is, as its checkpoints remember it."""

    meaning: dict[str, Any]  # what another run must share, or the numbers would mean something else
    settings: dict[str, Any]  # the whole tree, to say what has changed
    ranks: int


def checkpoint_path(run: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` optimizer steps."""
    return run / FOLDER / f"step-{step:06d}"


def complete_checkpoints(run: Path) -> list[Path]:
    """Checkpoints of a run folder that have all their files in full length, oldest first. Contents: see `damage`."""
    folders = [f for f in (run / FOLDER).glob("step-*") if _NAME.fullmatch(f.name) and not _torn(f)]
    return sorted(folders, key=_step)


def is_own(name: str) -> bool:
    """Whether a run leaves something of this name beside its checkpoints."""
    return name == LATEST_FILE or _NAME.fullmatch(name) is not None


def _manifest(checkpoint: Path) -> dict[str, dict[str, Any]]:
    manifest: dict[str, dict[str, Any]] = json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
    return manifest


def _torn(checkpoint: Path) -> str | None:
    """What is missing of a checkpoint, by its manifest; None where every file has its full length."""
    try:
        for name, expected in _manifest(checkpoint).items():
            size = (checkpoint / name).stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size} bytes instead of {expected['bytes']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return first_line(error)
    return None


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None where every byte is as it was written. Reads all of it."""
    if torn := _torn(checkpoint):
        return torn
    for name, expected in _manifest(checkpoint).items():
        if _sha256(checkpoint / name) != expected.get("sha256"):
            return f"{name} has other contents than were written"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state(checkpoint: Path) -> TrainState:
    """State of a complete checkpoint.

    Raises:
        UserError: not a complete checkpoint.
    """
    state = _read_record(checkpoint)["state"]
    return TrainState(**{field.name: state[field.name] for field in fields(TrainState)})


def _read_record(checkpoint: Path) -> dict[str, Any]:
    if problem := _torn(checkpoint):
        raise UserError(f"{checkpoint}: not a complete layoutner checkpoint: {problem}")
    record: dict[str, Any] = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    return record


def save(engine: Engine, run: Path, state: TrainState, identity: Identity, keep: int, world: World) -> None:
    """Write the checkpoint of `state.step`, then remove those that are no longer kept. All ranks call it.

    Rank 0 writes. The checkpoint appears under its name only when every byte of it is on the disk.

    Args:
        keep: how many of the newest stay, beside the best; 0 = all.

    Raises:
        UserError: on every rank: it could not be written; what was there before still is.
    """
    weights, moments = engine.weights(), engine.moments()
    record = {"state": asdict(state), "engine": engine.counters(), **asdict(identity)}
    world.on_main(lambda: _write(run, state, weights, moments, record, keep))


def _write(
    run: Path,
    state: TrainState,
    weights: dict[str, torch.Tensor],
    moments: dict[str, torch.Tensor],
    record: dict[str, Any],
    keep: int,
) -> None:
    folder, final = run / FOLDER, checkpoint_path(run, state.step)
    partial = folder / f".{final.name}.partial"
    try:
        for torn in folder.glob(".step-*.partial"):
            shutil.rmtree(torn, ignore_errors=torn != partial)
        partial.mkdir(parents=True)
        save_file(weights, partial / WEIGHTS_FILE, metadata={"format": "pt"})
        save_file(moments, partial / OPTIMIZER_FILE)
        (partial / STATE_FILE).write_text(json.dumps(record), encoding="utf-8")
        files = {name: _flushed(partial / name) for name in (WEIGHTS_FILE, OPTIMIZER_FILE, STATE_FILE)}
        (partial / MANIFEST_FILE).write_text(json.dumps({"files": files}, indent=2), encoding="utf-8")
        _flush(partial / MANIFEST_FILE)
        _flush(partial)
        shutil.rmtree(final, ignore_errors=True)  # a damaged one, or one that this run did not go on from
        partial.rename(final)
        latest = folder / f".{LATEST_FILE}.partial"
        latest.write_text(final.name + "\n", encoding="utf-8")
        latest.rename(folder / LATEST_FILE)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"{final}: could not be written: {first_line(error)}; the checkpoints before it are as they "
            "were: make room, then go on with run.resume = auto"
        ) from None
    if keep:
        _remove_old(run, state, keep)


def _remove_old(run: Path, state: TrainState, keep: int) -> None:
    """Keep the newest up to this one, and the best. What cannot be removed is no reason to end a run."""
    best = checkpoint_path(run, state.best_step) if state.best_step is not None else None
    # A later one can only be damaged, left by the run that this one goes on from: it counts for nothing.
    for old in [folder for folder in complete_checkpoints(run) if _step(folder) <= state.step][:-keep]:
        if old != best:
            try:
                # Renamed first: a kill while it is removed leaves no torn checkpoint under its name.
                shutil.rmtree(old.rename(old.with_name(f".{old.name}.partial")))
            except OSError as error:
                logger.warning("%s could not be removed: %s", old, error)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _flushed(path: Path) -> dict[str, Any]:
    """The manifest's line of a file that is on the disk."""
    _flush(path)
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _flush(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Saved:
    """A checkpoint being taken over. All ranks hold one; rank 0 reads, and shares every tensor."""

    def __init__(self, checkpoint: Path, world: World) -> None:
        self.path = checkpoint
        self.record: dict[str, Any] = world.on_main(lambda: _read_record(checkpoint))
        self._world = world
        self._files: dict[str, Any] = {}  # on rank 0
        self._names: dict[str, list[str]] = world.on_main(self._open)

    def _open(self) -> dict[str, list[str]]:
        self._files = {name: safe_open(self.path / name, "pt") for name in (WEIGHTS_FILE, OPTIMIZER_FILE)}
        return {name: list(file.keys()) for name, file in self._files.items()}

    @property
    def state(self) -> TrainState:
        """Where the run stood."""
        return TrainState(**self.record["state"])

    def into_model(self, model: nn.Module) -> None:
        """Put the weights into an fp32 model, from fp32 where they are trained.

        Raises:
            UserError: on every rank: other weights than the model's.
        """
        wanted = dict(model.named_parameters())
        there = set(self._names[WEIGHTS_FILE])
        if missing := sorted(wanted.keys() - there):
            raise UserError(f"{self.path}: {len(missing)} weights of the network are not in it: {missing[:10]}")
        for name, parameter in wanted.items():
            parameter.data.copy_(self._read(f"master/{name}", name, parameter.shape))

    def into_engine(self, engine: Engine) -> None:
        """Give the engine its optimizer's memory and its counters. The files are let go: they may be removed now."""
        engine.restore(self.record["engine"], lambda name, shape: self._read(name, None, shape))
        self._files.clear()

    def _read(self, name: str, else_weight: str | None, shape: torch.Size) -> torch.Tensor:
        tensor = None
        if self._world.is_main:
            if name in self._names[OPTIMIZER_FILE] or else_weight is None:
                tensor = self._files[OPTIMIZER_FILE].get_tensor(name)
            else:
                tensor = self._files[WEIGHTS_FILE].get_tensor(else_weight)
        return self._world.share(tensor, shape)


def to_resume(settings: Settings, identity: Identity, total: int) -> Path | None:
    """The checkpoint that run.resume asks for; None for a fresh start. Rank 0 alone calls it.

    A damaged one is named, and the one before it is taken.

    Args:
        total: optimizer steps that the run makes.

    Raises:
        UserError: "never" in a folder that holds checkpoints and is not to be overwritten, "must" or a path without
            one, nothing but damaged ones, a checkpoint of another meaning, or one that leaves nothing to train.
    """
    run, resume = settings.run.output_dir, settings.run.resume
    if settings.run.overwrite:
        return None
    there = complete_checkpoints(run)
    torn = [f for f in sorted((run / FOLDER).glob("step-*")) if _NAME.fullmatch(f.name) and f not in there]
    if resume == "never":
        if there:
            raise UserError(
                f"run.output_dir = {run} holds {len(there)} checkpoint(s), the newest {there[-1].name}: "
                "run.resume = auto goes on from there; to start afresh give another run.output_dir, or "
                "run.overwrite = true, which removes them"
            )
        return None
    if resume in ("auto", "must"):
        checkpoint = _newest_undamaged([*there, *torn])
        if checkpoint is None and (there or torn):
            raise UserError(
                f"run.resume = {resume}: every checkpoint in {run / FOLDER} is damaged; to start afresh give another "
                "run.output_dir"
            )
        if checkpoint is None and resume == "must":
            raise UserError(f"run.resume = must, but {run / FOLDER} holds no complete checkpoint")
    elif there and Path(resume).resolve().parent != (run / FOLDER).resolve():
        # The same command once more, as after preemption: what this run has done itself comes first.
        checkpoint = _newest_undamaged(there)
        logger.warning("run.resume = %s: this run has checkpoints of its own, and goes on from them", resume)
    else:
        checkpoint = Path(resume)
        if problem := damage(checkpoint):
            raise UserError(f"run.resume = {resume}: not a complete layoutner checkpoint: {problem}")
        newer = [other.name for other in there[-1:] if checkpoint.resolve() in (c.resolve() for c in there[:-1])]
        if newer:
            raise UserError(
                f"run.resume = {resume}: {newer[0]} stands beside it and is newer, and would be taken for this run's; "
                "to branch off there, give another run.output_dir"
            )
    if checkpoint is None:
        return None
    record = _read_record(checkpoint)
    saved = record["meaning"]
    differs = [
        f"{key} = {saved.get(key)} there, {value} here"
        for key, value in identity.meaning.items()
        if saved.get(key) != value
    ]
    if differs:
        raise UserError(f"{checkpoint}: cannot be resumed by this run: {'; '.join(differs)}")
    step, own = record["state"]["step"], checkpoint.resolve().parent == (run / FOLDER).resolve()
    if step > total or (step == total and not own):
        raise UserError(
            f"{checkpoint} stands after {step} optimizer steps, and this run makes {total}: there is nothing left to "
            "train; give a longer schedule, or make a model of it as it is: `layoutner export`"
        )
    return checkpoint


def has_best(run: Path, state: TrainState) -> bool:
    """Whether the best checkpoint that a state names, if any, is there in this run's folder."""
    return state.best_step is None or not _torn(checkpoint_path(run, state.best_step))


def _newest_undamaged(checkpoints: list[Path]) -> Path | None:
    for checkpoint in sorted(checkpoints, key=_step, reverse=True):
        if problem := damage(checkpoint):
            logger.warning("%s is damaged (%s): not used, the one before it is taken", checkpoint, problem)
        else:
            return checkpoint
    return None


def changes(saved: dict[str, Any], identity: Identity) -> list[str]:
    """What this run does otherwise than the one that wrote the checkpoint, where and when it writes aside."""
    found = [f"ranks {saved['ranks']} -> {identity.ranks}"] if saved["ranks"] != identity.ranks else []
    for section, values in identity.settings.items():
        before = saved["settings"].get(section, {})
        for key, value in values.items():
            if before.get(key) != value and (section, key) not in (("run", "resume"), ("run", "output_dir")):
                found.append(f"{section}.{key} {before.get(key)} -> {value}")
    return found
