"""How far a run is, from the files in its folder. Does not import torch."""

import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from layoutner.errors import CheckpointError
from layoutner.files.lock import Lock
from layoutner.tracking.trackers import METRICS_FILE, read_metrics
from layoutner.training.checkpoint_files import complete_checkpoints
from layoutner.training.folder import EXPORT_FOLDER, LOCK_FILE, SETTINGS_FILE

State = Literal["running", "finished", "stopped", "unknown"]  # unknown: its lock cannot be looked at

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
    state: State
    metrics: dict[str, Any]  # the newest value of each metric, and "step"
    total: int | None  # optimizer steps of the run; None = not known yet
    seconds: float | None  # since the last metrics were written; None = none yet
    checkpoint: Path | None  # the newest complete one

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.state}"]
        if self.seconds is None:
            return f"{lines[0]}, no optimizer step is logged yet"
        left = self.metrics.get("time/left_s")
        step = f"step {self.metrics['step']}" + ("" if self.total is None else f" of {self.total}")
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
    if not (folder / SETTINGS_FILE).is_file():
        raise CheckpointError(
            f"{folder}: no run, or one that still prepares its first step: {SETTINGS_FILE} is missing"
        )
    rows, checkpoints = read_metrics(folder / METRICS_FILE), complete_checkpoints(folder)
    metrics = {name: value for row in rows for name, value in row.items()}
    totals = [round(row["step"] / row["train/progress"]) for row in rows if row.get("train/progress")]
    newest = checkpoints[-1] if checkpoints else None
    seconds = time.time() - (folder / METRICS_FILE).stat().st_mtime if rows else None
    return Status(folder, _state(folder, newest), metrics, totals[-1] if totals else None, seconds, newest)


def _state(folder: Path, checkpoint: Path | None) -> State:
    """Whether a process holds the lock; it is taken here for a moment, for which a run that starts waits."""
    path = folder / LOCK_FILE
    try:
        if path.is_file():
            with Lock(path) as lock:
                if not lock.keeps_out:
                    return "unknown"
    except TimeoutError:
        return "running"
    except OSError:  # the folder belongs to somebody else
        return "unknown"
    export = folder / EXPORT_FOLDER
    # An export may be left of a run that went on later.
    older = checkpoint is not None and export.is_dir() and export.stat().st_mtime < checkpoint.stat().st_mtime
    return "finished" if export.is_dir() and not older else "stopped"
