"""Checkpoints of a run: written as atomic folders with a manifest, and verified when they are read.

What is in them, checkpoint_files.py says. Nothing in it depends on the number of ranks or the ZeRO stage, and nothing
is a pickle, so nothing in it can run code.
"""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from layoutner.distributed.ranks import Ranks
from layoutner.engine.engine import Engine
from layoutner.errors import CheckpointError, first_line
from layoutner.files.artefact import FileEntry
from layoutner.files.atomic import atomic_folder, remove, remove_leftovers, write_text
from layoutner.planning.optimizers import AVERAGE
from layoutner.settings.tree import Settings
from layoutner.training.checkpoint_files import (
    FOLDER,
    LATEST_FILE,
    MANIFEST_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    Manifest,
    Record,
    TrainState,
    checkpoint_path,
    complete_checkpoints,
    read_record,
    require_resumable,
    step_of,
    torn,
    torn_checkpoints,
    verify,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """Description of a run that is stored in its checkpoints."""

    must_match: dict[str, Any]  # values that must be equal in a run that resumes from the checkpoint
    settings: dict[str, Any]  # all settings, to log what has changed on resume
    world_size: int


def save(engine: Engine, run: Path, state: TrainState, identity: Identity, keep: int, ranks: Ranks) -> None:
    """Write the checkpoint of `state.step`, then remove old checkpoints. All ranks call it.

    Rank 0 writes. The checkpoint gets its name only after all of it has been flushed to disk.

    Args:
        keep: number of newest checkpoints to keep, in addition to the best one; 0 = keep all.

    Raises:
        CheckpointError: on every rank: it could not be written; earlier checkpoints are unchanged.
    """
    weights, moments = engine.weights(), engine.moments()
    record = Record(state=state, engine=engine.counters(), **vars(identity))
    ranks.run_on_rank_zero(lambda: _write(run, record, weights, moments, keep))


def _write(
    run: Path,
    record: Record,
    weights: dict[str, torch.Tensor],
    moments: dict[str, torch.Tensor],
    keep: int,
) -> None:
    folder, final = run / FOLDER, checkpoint_path(run, record.state.step)
    try:
        remove_leftovers(folder, "step-*")
        # What it replaces is a damaged one, or one that this run did not go on from.
        with atomic_folder(final, replace=True) as partial:
            save_file(weights, partial / WEIGHTS_FILE, metadata={"format": "pt"})
            save_file(moments, partial / OPTIMIZER_FILE)
            record.write(partial / STATE_FILE)
            files = {name: FileEntry.of(partial / name) for name in (WEIGHTS_FILE, OPTIMIZER_FILE, STATE_FILE)}
            Manifest(files=files).write(partial / MANIFEST_FILE)
        write_text(folder / LATEST_FILE, final.name + "\n")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{final}: could not be written: {first_line(error)}; the earlier checkpoints are "
            "unchanged: free disk space, then continue with run.resume = auto"
        ) from None
    if keep:
        _remove_old(run, record.state, keep)


def _remove_old(run: Path, state: TrainState, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints up to this step and the best. Failures are only logged."""
    best = checkpoint_path(run, state.best_step) if state.best_step is not None else None
    # Checkpoints after this step do not count: they can only be damaged ones from before this run resumed.
    for old in [folder for folder in complete_checkpoints(run) if step_of(folder) <= state.step][:-keep]:
        if old != best:
            try:
                remove(old)
            except OSError as error:
                logger.warning("%s could not be removed: %s", old, error)


class CheckpointReader:
    """Loads a checkpoint. Every rank has one; rank 0 reads the files and broadcasts every tensor."""

    def __init__(self, checkpoint: Path, ranks: Ranks) -> None:
        self.path = checkpoint
        self.record: Record = ranks.run_on_rank_zero(lambda: read_record(checkpoint))
        self._ranks = ranks
        self._files: dict[str, Any] = {}  # on rank 0
        self._names: dict[str, list[str]] = ranks.run_on_rank_zero(self._open)

    def _open(self) -> dict[str, list[str]]:
        self._files = {name: safe_open(self.path / name, "pt") for name in (WEIGHTS_FILE, OPTIMIZER_FILE)}
        return {name: list(file.keys()) for name, file in self._files.items()}

    @property
    def state(self) -> TrainState:
        """The train state at the checkpoint."""
        return self.record.state

    @property
    def has_average(self) -> bool:
        """Whether the run averaged its weights. The weights file then holds the averaged ones."""
        return any(name.startswith(f"{AVERAGE}/") for name in self._names[OPTIMIZER_FILE])

    def load_model(self, model: nn.Module) -> None:
        """Load the weights into an fp32 model; for trained parameters, the fp32 master weights of the optimizer file.

        Raises:
            CheckpointError: on every rank: weights of the model are missing from the checkpoint, or its fp32 weights
                are not those of its weights.
        """
        self._ranks.run_on_rank_zero(partial(self._require_same_weights, AVERAGE if self.has_average else "master"))
        wanted = dict(model.named_parameters())
        there = set(self._names[WEIGHTS_FILE])
        if missing := sorted(wanted.keys() - there):
            raise CheckpointError(f"{self.path}: {len(missing)} weights of the network are not in it: {missing[:10]}")
        for name, parameter in wanted.items():
            parameter.data.copy_(self._read(f"master/{name}", name, parameter.shape))

    def _require_same_weights(self, kind: str) -> None:
        """Compare the fp32 weights of this kind with the weights, which were saved on their own. Rank 0 calls it."""
        weights, optimizer = self._files[WEIGHTS_FILE], self._files[OPTIMIZER_FILE]
        for name in self._names[WEIGHTS_FILE]:
            if f"{kind}/{name}" in self._names[OPTIMIZER_FILE]:
                weight = weights.get_tensor(name)
                if not torch.equal(optimizer.get_tensor(f"{kind}/{name}").to(weight.dtype), weight):
                    raise CheckpointError(
                        f"{self.path}: its fp32 weights of {name} are not those of {WEIGHTS_FILE}, so no run can "
                        "resume from it. Earlier versions wrote such checkpoints with the preset zero2-offload on "
                        "several ranks. Its weights are right: export it, and train from the export"
                    )

    def load_engine(self, engine: Engine) -> None:
        """Load the optimizer state and the counters into the engine, and close the files, which may then be removed."""
        engine.restore(self.record.engine, lambda name, shape: self._read(name, None, shape), self.has_average)
        self._files.clear()

    def _read(self, name: str, else_weight: str | None, shape: torch.Size) -> torch.Tensor:
        tensor = None
        if self._ranks.is_rank_zero:
            if name in self._names[OPTIMIZER_FILE] or else_weight is None:
                tensor = self._files[OPTIMIZER_FILE].get_tensor(name)
            else:
                tensor = self._files[WEIGHTS_FILE].get_tensor(else_weight)
        return self._ranks.broadcast_tensor(tensor, shape)


def select_checkpoint(settings: Settings, identity: Identity, total: int) -> Path | None:
    """The checkpoint to resume from, by run.resume; None for a fresh start. Only rank 0 calls it.

    A damaged checkpoint is logged and skipped, and the one before it is used.

    Args:
        total: number of optimizer steps of the run.

    Raises:
        CheckpointError: run.resume is "never", the folder contains checkpoints and run.overwrite is false; it is "must"
            or a path and there is no checkpoint; all checkpoints are damaged; the checkpoint's `must_match` differs; or
            it leaves no steps to train.
    """
    run, resume = settings.run.output_dir, settings.run.resume
    if settings.run.overwrite:
        return None
    require_resumable(settings.run)
    if resume == "never":
        return None
    there, torn_ones = complete_checkpoints(run), torn_checkpoints(run)
    if resume in ("auto", "must"):
        checkpoint = _newest_undamaged([*there, *torn_ones])
        if checkpoint is None and (there or torn_ones):
            raise CheckpointError(
                f"run.resume = {resume}: every checkpoint in {run / FOLDER} is damaged; to start again, give "
                "another run.output_dir"
            )
    elif there and Path(resume).resolve().parent != (run / FOLDER).resolve():
        # The same command was started again, as after preemption: the run's own checkpoints take precedence.
        checkpoint = _newest_undamaged(there)
        logger.warning("run.resume = %s: ignored; this run resumes from its own checkpoints", resume)
    else:
        checkpoint = Path(resume)
        if problem := verify(checkpoint):
            raise CheckpointError(f"run.resume = {resume}: not a complete layoutner checkpoint: {problem}")
        newer = [other.name for other in there[-1:] if checkpoint.resolve() in (c.resolve() for c in there[:-1])]
        if newer:
            raise CheckpointError(
                f"run.resume = {resume}: {newer[0]} in the same folder is newer, and would be mistaken for this run's; "
                "to train from the older one, give another run.output_dir"
            )
    if checkpoint is None:
        return None
    record = read_record(checkpoint)
    saved, here = record.must_match, identity.must_match
    order, own_order = (values.get("window_order") for values in (saved, here))
    if order != own_order:
        raise CheckpointError(
            f"{checkpoint}: another release of layoutner wrote it, which puts the windows of an epoch in another order "
            f"({order or 'shuffled list'} there, {own_order} here): go on with that release, "
            "or train from an export of the checkpoint as model.name_or_path"
        )
    differs = [
        f"{key} = {saved.get(key)} there, {here.get(key)} here"
        for key in {**here, **saved}  # what only one of the two has, such as a ramp, counts too
        if saved.get(key) != here.get(key)
    ]
    if differs:
        raise CheckpointError(f"{checkpoint}: cannot be resumed by this run: {'; '.join(differs)}")
    step, own = record.state.step, checkpoint.resolve().parent == (run / FOLDER).resolve()
    if step > total or (step == total and not own):
        raise CheckpointError(
            f"{checkpoint} was saved after {step} optimizer steps, and this run has {total}: nothing is left to train; "
            "give a longer schedule, or export the checkpoint as it is with `layoutner export`"
        )
    return checkpoint


def has_best(run: Path, state: TrainState) -> bool:
    """Whether the best checkpoint of a state, if there is one, exists in this run's folder and is complete."""
    return state.best_step is None or not torn(checkpoint_path(run, state.best_step))


def _newest_undamaged(checkpoints: list[Path]) -> Path | None:
    for checkpoint in sorted(checkpoints, key=step_of, reverse=True):
        if problem := verify(checkpoint):
            logger.warning("%s is damaged (%s): trying the checkpoint before it", checkpoint, problem)
        else:
            return checkpoint
    return None


def changes(saved: Record, identity: Identity) -> list[str]:
    """Changes since the checkpoint was written: number of ranks, and settings except run.resume and run.output_dir."""
    found = [f"ranks {saved.world_size} -> {identity.world_size}"] if saved.world_size != identity.world_size else []
    defaults = Settings().model_dump(mode="json")
    for section, values in identity.settings.items():
        # A version that did not have a setting did what is now its default.
        before = {**defaults[section], **saved.settings.get(section, {})}
        for key, value in values.items():
            if before.get(key) != value and (section, key) not in (("run", "resume"), ("run", "output_dir")):
                found.append(f"{section}.{key} {before.get(key)} -> {value}")
    return found
