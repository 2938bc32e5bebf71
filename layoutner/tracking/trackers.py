"""Log metrics on rank 0: always to metrics.jsonl, optionally to TensorBoard and Weights & Biases."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from layoutner.errors import CheckpointError, Preempted, SettingsError, first_line
from layoutner.files.atomic import write_text
from layoutner.objectives.errors import Errors
from layoutner.settings.tree import Settings
from layoutner.tracking.dashboard import tensorboard_layout
from layoutner.tracking.wandb_tracker import About, Wandb

if TYPE_CHECKING:
    from layoutner.distributed.ranks import Ranks

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class Tracker(Protocol):
    """Receives the metrics of optimizer steps, with keys `group/name`; the name contains the unit."""

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Record the metrics of one optimizer step. Steps must increase from call to call."""

    def log_scores(self, step: int, metrics: dict[str, Any]) -> None:
        """Record the scores of a run after its last step, again if a finished run is started again."""

    def log_errors(self, step: int, errors: Errors) -> None:
        """Show what the scored model gets wrong, if the tracker has a place for it."""
        return

    def log_model(self, folder: Path) -> None:
        """Keep the exported model, if the tracker has a place for it."""
        return

    def close(self) -> None:
        """Write everything and close, after a run that ended."""

    def preempt(self) -> None:
        """Write everything and close, after a run that was preempted and will go on."""

    def abandon(self) -> None:
        """Close immediately, after a run that failed."""


class Trackers:
    """Calls several trackers in order. On ranks other than 0 the list is empty."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Log to each tracker."""
        for tracker in self._trackers:
            tracker.log(step, metrics)

    def log_scores(self, step: int, metrics: dict[str, Any]) -> None:
        """Log the scores to each tracker."""
        for tracker in self._trackers:
            tracker.log_scores(step, metrics)

    def log_errors(self, step: int, errors: Errors) -> None:
        """Show the errors in each tracker."""
        for tracker in self._trackers:
            tracker.log_errors(step, errors)

    def log_model(self, folder: Path) -> None:
        """Keep the exported model in each tracker."""
        for tracker in self._trackers:
            tracker.log_model(folder)

    def close(self) -> None:
        """Close each tracker."""
        for tracker in self._trackers:
            tracker.close()

    def preempt(self) -> None:
        """Close each tracker of a run that will go on."""
        for tracker in self._trackers:
            tracker.preempt()

    def abandon(self) -> None:
        """Abandon each tracker."""
        for tracker in self._trackers:
            tracker.abandon()

    @contextmanager
    def finished_with(self, ranks: "Ranks") -> Iterator[None]:
        """Close the trackers if the run ends or is preempted; abandon them if it fails. All ranks use it."""
        try:
            yield
        except Preempted:
            with ranks.activity("main", "closing its metrics"):  # Weights & Biases may take minutes to send
                self.preempt()
            raise
        except BaseException:
            self.abandon()
            raise
        with ranks.activity("main", "closing its metrics"):
            self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, none if there is no file; one that is half written is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _row(step: int, metrics: dict[str, Any]) -> dict[str, Any]:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
    return {"step": step, **finite}


class JsonLines(Tracker):
    """Writes one JSON object per line. Numbers that JSON does not support (inf, nan) become null."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        """Continue the file after `resumed_step`. Lines of later steps are dropped, because these steps run again.

        Raises:
            CheckpointError: it cannot be written.
        """
        try:
            self._replace(path, [row for row in read_metrics(path) if row["step"] <= resumed_step])
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot be written: {error}; free disk space, or change run.output_dir"
            ) from None

    def _replace(self, path: Path, rows: list[dict[str, Any]]) -> None:
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Append a line and flush.

        Raises:
            CheckpointError: it cannot be written.
        """
        try:
            self._file.write(json.dumps(_row(step, metrics)) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._unwritable(step, error) from None

    def log_scores(self, step: int, metrics: dict[str, Any]) -> None:
        """Add the scores to the line of the step, so that every step has one.

        Raises:
            CheckpointError: they cannot be written.
        """
        path = Path(self._file.name)
        self._file.close()
        rows = read_metrics(path)
        before = rows.pop() if rows and rows[-1]["step"] == step else {}
        try:
            self._replace(path, [*rows, before | _row(step, metrics)])
        except OSError as error:
            raise self._unwritable(step, error) from None

    def _unwritable(self, step: int, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"{self._file.name}: step {step} cannot be written: {error}; free disk space, then continue with "
            "run.resume = auto"
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    preempt = abandon = close


class TensorBoard(Tracker):
    """Logs to a TensorBoard event file, a new one per start. Repeated steps of a resumed run are shown only once.

    The scores of a finished run that is started again are shown twice, at the same step. "Custom scalars" shows the
    sections of the dashboard.
    """

    def __init__(self, folder: Path, takes_back: int | None) -> None:
        """Create an event file that hides steps after `takes_back` in older event files of the folder.

        Args:
            folder: folder of the event files; created if needed.
            takes_back: last step to keep visible; None = hide nothing.

        Raises:
            SettingsError: the folder cannot be written.
        """
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._writer: Any = SummaryWriter(folder, purge_step=None if takes_back is None else takes_back + 1)
            self._writer.add_custom_scalars(tensorboard_layout())
        except OSError as error:
            raise SettingsError(f"tensorboard.dir = {folder}: cannot be written: {error}") from None

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Append and flush, so that after a kill TensorBoard shows the same steps as metrics.jsonl."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    log_scores = log

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    preempt = abandon = close


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


def open_tracker(settings: Settings, ranks: "Ranks", resumed_step: int, about: About) -> Trackers:
    """Open the trackers of this rank.

    Args:
        about: gives DeepSpeed's JSON, plan and environment of the run, which Weights & Biases shows beside the
            settings; only called for it.
        resumed_step: number of optimizer steps already done; records of later steps are dropped or hidden.

    Raises:
        SettingsError, CheckpointError: one of them cannot start.
    """
    if not ranks.is_rank_zero:
        return Trackers()
    folder = settings.run.output_dir
    others: list[Tracker] = []
    if settings.tensorboard.enabled:
        # A folder given by the user may contain curves of other runs, which a fresh start must not hide.
        given = settings.tensorboard.dir
        takes_back = resumed_step if resumed_step or given is None or settings.run.overwrite else None
        others.append(TensorBoard(given or folder / TENSORBOARD_FOLDER, takes_back))
    if settings.wandb.mode != "disabled":
        others.append(Wandb(settings, folder, resumed_step, about))
    # metrics.jsonl is opened last, so that it is unchanged if another tracker fails to open; it is written first.
    return Trackers(JsonLines(folder / METRICS_FILE, resumed_step), *others)
