"""metrics.jsonl, always, and Weights & Biases where it is asked for: rank 0 alone."""

import json
import math
import os
import uuid
from pathlib import Path
from typing import Any, Literal, Protocol

from layoutner.config.errors import UserError, first_line
from layoutner.config.settings import Settings
from layoutner.training.world import World

METRICS_FILE = "metrics.jsonl"
WANDB_ID_FILE = "wandb_run_id"


class Tracker(Protocol):
    """Takes the metrics of optimizer steps, keys `group/name` with the unit in the name."""

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Record the metrics of one optimizer step; steps only ever grow."""

    def close(self) -> None:
        """Finish."""


class NoTracker:
    """What every rank but 0 holds."""

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class JsonLines:
    """One JSON object a line; a number that JSON has no word for (inf, nan) becomes null."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        """Continue the file after `resumed_step`: lines of later steps, now to be done again, are dropped."""
        kept = []
        if path.exists() and resumed_step:
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= resumed_step:
                        kept.append(line + "\n")
                except (ValueError, KeyError):
                    continue  # a line that a killed run left half written
        partial = path.with_name(f".{path.name}.partial")  # a kill here must not cost the lines of before
        partial.write_text("".join(kept), encoding="utf-8")
        partial.rename(path)
        self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Append and flush."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Wandb:
    """A Weights & Biases run beside metrics.jsonl; its id is kept in the run folder, so a resumed run goes on in it."""

    def __init__(self, settings: Settings, folder: Path, beside: JsonLines, resumed_step: int) -> None:
        """Start a run, or continue that of a resumed one.

        Raises:
            UserError: Weights & Biases refuses or cannot be reached.
        """
        import wandb

        self._beside = beside
        id_file = folder / WANDB_ID_FILE
        if not id_file.exists() or not resumed_step:  # W&B drops steps that do not grow: a fresh start is a new run
            id_file.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
        try:
            self._run = wandb.init(
                mode=_wandb_mode(settings.wandb.mode),
                project=settings.wandb.project,
                entity=settings.wandb.entity,
                name=settings.wandb.name or folder.name,
                tags=list(settings.wandb.tags),
                id=id_file.read_text(encoding="utf-8").strip(),
                resume="allow",
                dir=folder,
                config=settings.model_dump(mode="json"),
            )
        except wandb.Error as error:
            raise UserError(
                f"wandb.mode = {settings.wandb.mode}: Weights & Biases did not start: {first_line(error)}; "
                "log in with `wandb login`, or take wandb.mode = offline"
            ) from None

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Send, and write beside."""
        self._beside.log(step, metrics)
        self._run.log(metrics, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._beside.close()
        self._run.finish()


def _wandb_mode(mode: Literal["online", "offline", "disabled"]) -> Literal["online", "offline", "disabled"]:
    """WANDB_MODE=offline, as a compute node without network sets it, turns online into offline."""
    return "offline" if os.environ.get("WANDB_MODE") == "offline" else mode


def open_tracker(settings: Settings, world: World, resumed_step: int) -> Tracker:
    """The tracker of this rank."""
    if not world.is_main:
        return NoTracker()
    folder = settings.run.output_dir
    lines = JsonLines(folder / METRICS_FILE, resumed_step)
    return lines if settings.wandb.mode == "disabled" else Wandb(settings, folder, lines, resumed_step)
