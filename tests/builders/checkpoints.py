"""Checkpoints of a run, written as rank 0 writes them."""

from pathlib import Path

import torch

from layoutner.training.checkpoint import Identity, _write
from layoutner.training.checkpoint_files import Record, TrainState, checkpoint_path

IDENTITY = Identity(
    must_match={"seed": 1}, settings={"optimizer": {"lr": 0.1}, "run": {"resume": "never"}}, world_size=2
)


def checkpoint(
    run: Path, step: int, best: int | None = None, keep: int = 0, weights: dict[str, torch.Tensor] | None = None
) -> Path:
    """Write one as rank 0 does."""
    tensors = weights or {"weight": torch.full((3,), float(step))}
    state = TrainState(step, best, 0.5, 1.0)
    record = Record(state=state, engine={}, **vars(IDENTITY))
    _write(run, record, tensors, {f"master/{name}": tensor for name, tensor in tensors.items()}, keep)
    return checkpoint_path(run, step)
