"""How far a run is, from the files in its folder. Does not import torch."""

import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from layoutner.files.lock import Lock
from layoutner.runs.folds import settings_of_run
from layoutner.tracking.trackers import METRICS_FILE, read_metrics
from layoutner.training.checkpoint_files import complete_checkpoints
from layoutner.training.folder import EXPORT_FOLDER, LOCK_FILE

# Metrics that are shown, and how.
SHOWN = {
    "train/loss": "loss {:.4f}",
    "train/lr": "lr {:.3g}",
    "train/grad_norm": "grad norm {:.3g}",
    "throughput/tokens_per_s": "{:.0f} tokens/s",
    "memory/peak_GiB": "{:.1f} GiB at most",
    "eval/f1": "eval f1 {:.4f}",
    "test/f1": "test f1 {:.4f}",
}


@dataclass(frozen=True)
class Status:
    """What the folder of a run says."""

    folder: Path
    state: Literal["running", "finished", "stopped"]
    metrics: dict[str, Any]  # the newest value of each metric, and "step"
    seconds: float | None  # since the last metrics were written; None = none yet
    checkpoint: Path | None  # the newest complete one

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.state}"]
        if self.seconds is None:
            return f"{lines[0]}, no optimizer step is logged yet"
        progress, left = self.metrics.get("train/progress"), self.metrics.get("time/left_s")
        step = f"step {self.metrics['step']}"
        step += f" of {self.metrics['step'] / progress:.0f}" if progress else ""
        step += f", {timedelta(seconds=round(left))} left" if left and self.state == "running" else ""
        lines.append(f"  {step}; written {timedelta(seconds=round(self.seconds))} ago")
        shown = [text.format(self.metrics[name]) for name, text in SHOWN.items() if self.metrics.get(name) is not None]
        lines += [f"  {', '.join(shown)}"] if shown else []
        if "best/f1" in self.metrics:
            lines.append(f"  best eval f1 {self.metrics['best/f1']:.4f}, after step {self.metrics['best/step']}")
        lines.append(f"  newest checkpoint: {'none' if self.checkpoint is None else self.checkpoint}")
        return "\n".join(lines)


def read_status(folder: Path) -> Status:
    """Look at a run, which may be running.

    Raises:
        CheckpointError: the folder has no run.
    """
    settings_of_run(folder)
    rows, checkpoints = read_metrics(folder / METRICS_FILE), complete_checkpoints(folder)
    metrics = {name: value for row in rows for name, value in row.items()}
    state: Literal["running", "finished", "stopped"] = "stopped"
    if _is_held(folder / LOCK_FILE):
        state = "running"
    elif (folder / EXPORT_FOLDER).is_dir():
        state = "finished"
    seconds = time.time() - (folder / METRICS_FILE).stat().st_mtime if rows else None
    return Status(folder, state, metrics, seconds, checkpoints[-1] if checkpoints else None)


def _is_held(lock: Path) -> bool:
    """Whether a process holds the lock. For that moment it is taken here, for which a run that starts waits."""
    if not lock.is_file():
        return False
    try:
        Lock(lock).release()
    except OSError as error:  # else: a folder that is others', which tells nothing
        return isinstance(error, TimeoutError)
    return False
