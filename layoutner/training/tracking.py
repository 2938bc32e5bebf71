"""metrics.jsonl, always, and TensorBoard and Weights & Biases where they are asked for: rank 0 alone."""

import json
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from layoutner.errors import CheckpointError, Preempted, SettingsError, first_line
from layoutner.files.atomic import write_text
from layoutner.settings.tree import Settings

if TYPE_CHECKING:
    from layoutner.distributed.ranks import Ranks

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
WANDB_ID_FILE = "wandb_run_id"


class Tracker(Protocol):
    """Takes the metrics of optimizer steps, keys `group/name` with the unit in the name."""

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Record the metrics of one optimizer step; steps only ever grow."""

    def close(self) -> None:
        """Finish."""

    def abandon(self) -> None:
        """Close its files, at once: the run has failed."""


class Trackers:
    """Several trackers as one, in their order; on every rank but 0 there are none."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Hand on to each."""
        for tracker in self._trackers:
            tracker.log(step, metrics)

    def close(self) -> None:
        """Close each."""
        for tracker in self._trackers:
            tracker.close()

    def abandon(self) -> None:
        """Abandon each."""
        for tracker in self._trackers:
            tracker.abandon()

    @contextmanager
    def finished_with(self, ranks: "Ranks") -> Iterator[None]:
        """Close the trackers when a run ends or is preempted, abandon them when it fails. All ranks enter it."""
        try:
            yield
        except Preempted:
            self._close(ranks)
            raise
        except BaseException:
            self.abandon()
            raise
        self._close(ranks)

    def _close(self, ranks: "Ranks") -> None:
        with ranks.activity("main", "closing its metrics"):  # Weights & Biases may take minutes to send
            self.close()


class JsonLines:
    """One JSON object a line; a number that JSON has no word for (inf, nan) becomes null."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        """Continue the file after `resumed_step`: lines of later steps, now to be done again, are dropped.

        Raises:
            CheckpointError: it cannot be written.
        """
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= resumed_step:
                        kept.append(line + "\n")
                except (ValueError, KeyError, TypeError):
                    continue  # a line that a killed run left half written, or none of ours
        try:
            write_text(path, "".join(kept))
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot be written: {error}; make room, or give another run.output_dir"
            ) from None

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Append and flush.

        Raises:
            CheckpointError: it cannot be written.
        """
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
        try:
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
            self._file.flush()
        except OSError as error:
            raise CheckpointError(
                f"{self._file.name}: step {step} cannot be written: {error}; make room, then go on with "
                "run.resume = auto"
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    abandon = close


class Wandb:
    """A Weights & Biases run beside metrics.jsonl; its id is kept in the run folder, so a resumed run goes on in it."""

    def __init__(self, settings: Settings, folder: Path, resumed_step: int) -> None:
        """Start a run, or continue that of a resumed one.

        Raises:
            SettingsError: Weights & Biases refuses or cannot be reached.
        """
        import wandb

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
            raise SettingsError(
                f"wandb.mode = {settings.wandb.mode}: Weights & Biases did not start: {first_line(error)}; "
                "log in with `wandb login`, or take wandb.mode = offline"
            ) from None

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Send."""
        self._run.log(metrics, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()

    def abandon(self) -> None:
        """Nothing: at the exit of the process it says by itself that the run has failed, and may wait for a network."""


class TensorBoard:
    """The same metrics as an event file, a new one for each start; steps that are done again are shown once."""

    def __init__(self, folder: Path, takes_back: int | None) -> None:
        """Begin an event file, which hides what older ones in the folder say of steps after `takes_back`.

        Args:
            folder: of the event files; made.
            takes_back: a step, or None: hide nothing.

        Raises:
            SettingsError: the folder cannot be written.
        """
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._writer: Any = SummaryWriter(folder, purge_step=None if takes_back is None else takes_back + 1)
        except OSError as error:
            raise SettingsError(f"tensorboard.dir = {folder}: cannot be written: {error}") from None

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Append and flush: a run that is killed has shown what metrics.jsonl holds."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    abandon = close


def _wandb_mode(mode: Literal["online", "offline", "disabled"]) -> Literal["online", "offline", "disabled"]:
    """WANDB_MODE=offline, as a compute node without network sets it, turns online into offline."""
    return "offline" if os.environ.get("WANDB_MODE") == "offline" else mode


def require_packages(settings: Settings) -> None:
    """Refuse a tracker whose package is not installed.

    Raises:
        SettingsError: tensorboard.enabled without tensorboard.
    """
    if settings.tensorboard.enabled:
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise SettingsError(
                f"tensorboard.enabled = true: {first_line(error)}; `pip install 'layoutner[tensorboard]'` installs it"
            ) from None


def open_tracker(settings: Settings, ranks: "Ranks", resumed_step: int) -> Trackers:
    """The trackers of this rank.

    Args:
        resumed_step: optimizer steps already done; what was recorded of later ones counts no more.

    Raises:
        SettingsError, CheckpointError: one of them cannot start.
    """
    if not ranks.is_rank_zero:
        return Trackers()
    folder = settings.run.output_dir
    others: list[Tracker] = []
    if settings.tensorboard.enabled:
        # In a folder of the user's, a run that begins may meet the curves of others.
        given = settings.tensorboard.dir
        takes_back = resumed_step if resumed_step or given is None or settings.run.overwrite else None
        others.append(TensorBoard(given or folder / TENSORBOARD_FOLDER, takes_back))
    if settings.wandb.mode != "disabled":
        others.append(Wandb(settings, folder, resumed_step))
    # Opened last, so that one of the others that fails leaves its lines as they were; written first.
    return Trackers(JsonLines(folder / METRICS_FILE, resumed_step), *others)
