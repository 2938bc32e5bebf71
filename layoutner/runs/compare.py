"""Runs side by side: the settings in which they differ, and how far each came. Does not import torch."""

import statistics
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from layoutner.runs.folds import flat, settings_of_run
from layoutner.runs.status import read_status
from layoutner.tracking.trackers import METRICS_FILE, read_metrics

# The newest value of these metrics, and how it is shown.
NEWEST = {
    "train/loss": "{:.4f}",
    "eval/loss": "{:.4f}",
    "eval/f1": "{:.4f}",
    "best/f1": "{:.4f}",
    "best/step": "{}",
    "test/f1": "{:.4f}",
    "memory/peak_GiB": "{:.2f}",
}
# The median of these over the run.
MEDIANS = {"throughput/tokens_per_s": "{:.0f}", "time/step_s": "{:.3g}"}


def compare(folders: Sequence[Path]) -> str:
    """A table with a column for each run.

    Raises:
        CheckpointError: a folder has no run.
    """
    results = outcomes(folders)  # first, as it refuses folders that are no runs
    rows = [["", *map(str, folders)], *differing_settings(folders), *results]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def differing_settings(folders: Sequence[Path]) -> list[list[str]]:
    """The settings in which runs differ: rows of the setting and its value in each run, "-" if a run has none.

    Raises:
        CheckpointError: the settings of a run cannot be read.
    """
    settings = [flat(settings_of_run(folder)) for folder in folders]
    rows = [[key, *(str(tree.get(key, "-")) for tree in settings)] for key in dict.fromkeys(chain(*settings))]
    return [row for row in rows if row[0] != "run.output_dir" and len(set(row[1:])) > 1]


def outcomes(folders: Sequence[Path]) -> list[list[str]]:
    """How far runs are and what came of them: rows of a name and its value in each run, "-" if a run has none.

    Raises:
        CheckpointError: a folder has no run.
    """
    found = [read_status(folder) for folder in folders]
    rows = [
        ["state", *(one.state for one in found)],
        ["step", *(f"{one.metrics.get('step', 0)} of {one.total or '?'}" for one in found)],
    ]
    for name, text in NEWEST.items():
        rows.append([name, *("-" if (value := one.metrics.get(name)) is None else text.format(value) for one in found)])
    for name, text in MEDIANS.items():
        series = [
            [row[name] for row in read_metrics(one / METRICS_FILE) if row.get(name) is not None] for one in folders
        ]
        rows.append([f"{name}, median", *(text.format(statistics.median(one)) if one else "-" for one in series)])
    return [row for row in rows if set(row[1:]) != {"-"}]
