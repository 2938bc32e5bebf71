"""The results of a sweep: which runs have ended, and the points in order of their scores. Does not import torch."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from layoutner.errors import CheckpointError, LayoutnerError, require_all
from layoutner.files.artefact import Artefact
from layoutner.planning.scaling import scaled_lr
from layoutner.runs.folds import finished_scores, require_same_settings
from layoutner.sweeps.sweep import Point, Run, Sweep
from layoutner.tracking.trackers import METRICS_FILE, read_metrics
from layoutner.training.checkpoint_files import complete_checkpoints
from layoutner.training.folder import write_json

DIVERGED = "training stops"  # in the message of a run whose loss or gradient was not finite
COLLAPSED = 0.5  # a run with less than this share of the best F1 has collapsed

RESULTS_FILE = "sweep.json"
FAILURES_FILE = "failed.json"

# Student's t for 1, 2, ... degrees of freedom: 95% of the distribution lies between -t and t. Source: NIST/SEMATECH
# e-Handbook of Statistical Methods, 1.3.6.7.2, the column of 0.975.
# fmt: off
STUDENT_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)
# fmt: on


class Failure(BaseModel):
    """How a run failed."""

    model_config = ConfigDict(frozen=True)

    exit_code: int
    message: str


class Failures(Artefact):
    """The file failed.json: runs that failed, and are tried again only if asked for."""

    refused_as: ClassVar[type[LayoutnerError]] = CheckpointError

    runs: dict[str, Failure] = Field(default_factory=dict)  # by the name of the run

    @classmethod
    def of(cls, folder: Path) -> "Failures":
        """Those of a sweep.

        Raises:
            CheckpointError: the file is damaged, or a newer layoutner has written it.
        """
        file = folder / FAILURES_FILE
        try:
            return cls.read(file) if file.exists() else cls()
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{file}: cannot be read: {error}; remove it, and the runs that failed are tried again"
            ) from None

    def record(self, folder: Path, name: str, failure: Failure | None) -> "Failures":
        """The same with, or without, the failure of a run; written to the file."""
        runs = {other: its for other, its in self.runs.items() if other != name}
        changed = Failures(runs=runs if failure is None else {**runs, name: failure})
        if changed != self:
            changed.write(folder / FAILURES_FILE)
        return changed


@dataclass(frozen=True)
class PointResult:
    """What is known of a point."""

    point: Point
    scores: dict[int, dict[str, Any]]  # seed -> the content of scores.json, of the runs that have it
    failures: dict[int, Failure]  # seed -> failure, of those that failed and have none
    curves: dict[int, dict[int, float]] = field(default_factory=dict)  # seed -> optimizer step -> F1 on data.eval
    steps: dict[int, int] = field(default_factory=dict)  # seed -> optimizer steps so far

    def mean(self, key: str) -> float | None:
        """Mean of a score over the seeds that have it."""
        return statistics.fmean(scores[key] for scores in self.scores.values()) if self.scores else None

    @property
    def interval(self) -> float | None:
        """Half width of the 95% confidence interval of the mean F1; None with fewer than two seeds."""
        return half_width([scores["f1"] for scores in self.scores.values()])

    @property
    def mean_steps(self) -> float | None:
        """Mean number of optimizer steps of the finished runs."""
        found = [self.steps[seed] for seed in self.scores if seed in self.steps]
        return statistics.fmean(found) if found else None

    def mean_curve(self) -> list[tuple[int, float]]:
        """(optimizer step, F1): the mean over the seeds, at the steps that all of them have."""
        curves = [curve for curve in self.curves.values() if curve]
        shared = sorted(set.intersection(*map(set, curves))) if curves else []
        return [(step, statistics.fmean(curve[step] for curve in curves)) for step in shared]

    @property
    def order(self) -> tuple[bool, float, float, int]:
        """The best is first: by mean F1, at the same F1 by mean loss, then as in the file.

        Points without the scores of all their runs come after the others: the runs that failed may be the bad ones.
        """
        f1, loss = self.mean("f1"), self.mean("loss")
        incomplete = len(self.scores) < len(self.point.runs)
        return incomplete, math.inf if f1 is None else -f1, math.inf if loss is None else loss, self.point.number

    def to_dict(self) -> dict[str, Any]:
        """What sweep.json says of it."""
        runs = {run.seed: run for run in self.point.runs}
        return {
            "point": self.point.number,
            "values": self.point.values,
            "f1": {"mean": self.mean("f1"), "half_width_95": self.interval},
            "loss": self.mean("loss"),
            "steps": self.mean_steps,
            "runs": [
                {"seed": seed, "name": runs[seed].name}
                | {key: scores[key] for key in ("f1", "precision", "recall", "loss", "checkpoint")}
                | {"steps": self.steps.get(seed)}
                for seed, scores in self.scores.items()
            ],
            "failed": [
                {"seed": seed, "name": runs[seed].name, **failure.model_dump()}
                for seed, failure in self.failures.items()
            ],
            "unfinished": [run.name for run in self.point.runs if run.seed not in {*self.scores, *self.failures}],
        }


def half_width(values: Sequence[float]) -> float | None:
    """Half width of the 95% confidence interval of the mean of a normal distribution, t s / sqrt(n).

    s is the sample standard deviation (n - 1), t Student's with n - 1 degrees of freedom. Above 30 of them, that of 30
    is taken, which is at most 4% too wide.

    Returns:
        None if there are fewer than two values.
    """
    if len(values) < 2:
        return None
    freedom = min(len(values) - 1, len(STUDENT_T))
    return STUDENT_T[freedom - 1] * statistics.stdev(values) / math.sqrt(len(values))


def scores_by_run(sweep: Sweep) -> dict[str, dict[str, Any]]:
    """Name -> the scores of the runs that are finished.

    Raises:
        CheckpointError: runs had other settings, or their files cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}

    def read(run: Run) -> None:
        if (scores := finished_scores(run.settings)) is not None:
            found[run.name] = scores
        elif complete_checkpoints(run.folder):
            require_same_settings(run.settings)

    require_all(f"the runs in {sweep.folder} are not those of this sweep", (partial(read, run) for run in sweep.runs))
    return found


def read_results(sweep: Sweep) -> list[PointResult]:
    """The results so far, the best first.

    Raises:
        CheckpointError: see `scores_by_run` and `Failures.of`.
    """
    scores, failures = scores_by_run(sweep), Failures.of(sweep.folder).runs
    results = []
    for point in sweep.points:
        rows = {run.seed: read_metrics(run.folder / METRICS_FILE) for run in point.runs}
        curves = {
            seed: {row["step"]: row["eval/f1"] for row in its if row.get("eval/f1") is not None}
            for seed, its in rows.items()
        }
        results.append(
            PointResult(
                point,
                {run.seed: scores[run.name] for run in point.runs if run.name in scores},
                {run.seed: failures[run.name] for run in point.runs if run.name in failures and run.name not in scores},
                curves,
                {seed: its[-1]["step"] for seed, its in rows.items() if its},
            )
        )
    return sorted(results, key=lambda result: result.order)


def write_results(sweep: Sweep, results: Sequence[PointResult]) -> None:
    """Write sweep.json.

    Raises:
        OSError: it cannot be written.
    """
    content = {
        "format_version": 1,
        "split": "eval",
        "points": [result.to_dict() for result in results],
        "notes": list(notes(sweep, results)),
    }
    write_json(sweep.folder / RESULTS_FILE, content)


def table(sweep: Sweep, results: Sequence[PointResult]) -> str:
    """The points, the best first, with notes below."""
    some_failed = any(result.failures for result in results)
    head = ["point", *sweep.labels.values(), "seeds", "F1", "+/- 95%", "loss", "steps"]
    rows = [[*head, "failed"] if some_failed else head]
    for result in results:
        values = [result.point.values.get(key) for key in sweep.labels]
        cells = [
            str(result.point.number),
            *("-" if value is None else show(value) for value in values),
            f"{len(result.scores)}/{len(result.point.runs)}",
            *(
                "-" if number is None else f"{number:.4f}"
                for number in (result.mean("f1"), result.interval, result.mean("loss"))
            ),
            "-" if result.mean_steps is None else f"{result.mean_steps:g}",
        ]
        rows.append([*cells, str(len(result.failures))] if some_failed else cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*lines, *notes(sweep, results)])


def show(value: Any) -> str:
    """A value of a setting as the table and the figures show it."""
    if isinstance(value, list):
        return ",".join(map(show, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _stability(results: Sequence[PointResult]) -> Iterator[str]:
    """Up to which learning rate the best point's optimizer was stable, if a larger one collapsed.

    A run collapsed if its loss was not finite, or if its F1 is below `COLLAPSED` times the best point's. At a learning
    rate below the best point's a low F1 has other reasons.
    """
    best = results[0]
    if not best.scores:
        return
    least, optimizer = COLLAPSED * (best.mean("f1") or 0.0), best.point.runs[0].settings.optimizer.name
    fine, collapsed = {_lr(best.point.runs[0])}, set[float]()
    for result in results:
        for run in result.point.runs:
            f1 = result.scores[run.seed]["f1"] if run.seed in result.scores else None
            diverged = run.seed in result.failures and DIVERGED in result.failures[run.seed].message
            if run.settings.optimizer.name == optimizer and (f1 is not None or diverged):
                (fine if f1 is not None and f1 >= least else collapsed).add(_lr(run))
    beyond = [lr for lr in collapsed if lr > _lr(best.point.runs[0])]
    if beyond:
        stable = max(lr for lr in fine if lr < min(beyond))
        yield (
            f"note: {optimizer} was stable up to a learning rate of {stable:g}; at {min(beyond):g} runs diverged or "
            f"ended below {COLLAPSED:g} of the best F1; optimizer.largest_stable_lr = {stable:g} warns later runs"
        )


def _lr(run: Run) -> float:
    return scaled_lr(run.settings, run.settings.batch.global_batch_size)


def notes(sweep: Sweep, results: Sequence[PointResult]) -> Iterator[str]:
    """What a reader of the results should know."""
    best = results[0]
    for key, values in sweep.numeric_grid().items() if best.scores else ():
        if (value := best.point.values[key]) in (values[0], values[-1]):
            which, other = ("smallest", "smaller") if value == values[0] else ("largest", "larger")
            yield f"note: the best {key} is the {which} tried ({show(value)}): try {other} ones"
    yield from _stability(results)
    missing = sum(len(result.point.runs) - len(result.scores) - len(result.failures) for result in results)
    if missing:
        yield f"note: {missing} of {len(sweep.runs)} runs have no scores: not trained yet, or failed under Slurm"
    for result in sorted(results, key=lambda result: result.point.number):
        if result.failures:
            failed, runs = len(result.failures), len(result.point.runs)
            message = next(iter(result.failures.values())).message
            yield f"note: point {result.point.number}: {failed} of {runs} runs failed: {message}"
