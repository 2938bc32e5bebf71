"""Runs, or the scores of a model, as one HTML page that needs nothing else: curves, tables, and the worst pages."""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from layoutner import __version__
from layoutner.errors import CheckpointError, DataError
from layoutner.files.atomic import atomic_file
from layoutner.objectives.calibration import CALIBRATION_FILE, Calibration
from layoutner.objectives.errors import KINDS, NO_TYPE, Errors
from layoutner.objectives.metrics import Scores
from layoutner.objectives.scores_file import ScoresFile
from layoutner.reports.charts import Line, line_chart, reliability_chart
from layoutner.reports.page_view import PageView, slug, view
from layoutner.runs.compare import differing_settings, outcomes
from layoutner.tracking.trackers import METRICS_FILE, read_metrics
from layoutner.training.folder import ERRORS_FILE, PLAN_FILE, SCORES_FILE, SETTINGS_FILE

LOSS_SCALE = "train/loss_scale"  # drawn if it changes, which it does in fp16

# Metrics that are drawn, and whether on a logarithmic axis.
CURVES = {
    "train/loss": True,
    "eval/f1": False,
    "eval/loss": False,
    "train/lr": False,
    "train/grad_norm": True,
    LOSS_SCALE: True,
    "gradient/noise_scale_windows": True,
    "throughput/tokens_per_s": False,
    "memory/peak_GiB": False,
}


@dataclass(frozen=True)
class ScoredView:
    """The scores of a run or model, and what it got wrong."""

    name: str
    scores: dict[str, Any]  # as in scores.json
    errors: Errors | None  # None: an older layoutner kept none
    reliability: Markup  # a chart
    kinds: Sequence[tuple[str, Sequence[int]]]  # of each type, in the order of KINDS
    confusion: Sequence[tuple[str, Sequence[tuple[int, float]]]]  # true type; words and share of each predicted type
    pages: Sequence[PageView]
    calibration: Calibration | None = None
    calibrated: Markup | None = None  # a chart: before and after


@dataclass(frozen=True)
class Text:
    """A file of a run, to unfold."""

    name: str
    content: str


def report_runs(folders: Sequence[Path], out: Path, pages: int, max_image_mib: int) -> None:
    """Write the report of runs, which may still be running.

    Args:
        pages: how many of the worst pages, of all runs together.
        max_image_mib: see `view`.

    Raises:
        CheckpointError: a folder has no run, or its files are damaged.
        DataError: `out` cannot be written.
    """
    results = outcomes(folders)
    differs = differing_settings(folders)
    each = pages // len(folders)
    scored = [one for folder in folders if (one := _scored_run(folder, each, max_image_mib)) is not None]
    metrics = [read_metrics(folder / METRICS_FILE) for folder in folders]
    _write(
        out,
        title=", ".join(str(folder) for folder in folders),
        names=[str(folder) for folder in folders],
        results=results,
        differs=differs,
        curves=_curves(metrics),
        scored=scored,
        texts=[
            Text(f"{folder / name}", (folder / name).read_text(encoding="utf-8", errors="replace"))
            for folder in folders
            for name in (PLAN_FILE, SETTINGS_FILE)
            if (folder / name).is_file()
        ],
    )


def report_scores(name: str, scores: Scores, errors: Errors, out: Path, max_image_mib: int) -> None:
    """Write the report of a model's scores, with all pages of `errors`.

    Args:
        name: of the model.
        max_image_mib: see `view`.

    Raises:
        DataError: `out` cannot be written.
    """
    shown = _view(name, scores.to_dict(), errors, len(errors.pages), max_image_mib)
    _write(out, title=name, names=[name], results=[], differs=[], curves=[], scored=[shown], texts=[])


def _scored_run(folder: Path, pages: int, max_image_mib: int) -> ScoredView | None:
    if not (folder / SCORES_FILE).is_file():
        return None
    try:
        scores = ScoresFile.read(folder / SCORES_FILE)
        errors = Errors.read(folder / ERRORS_FILE) if (folder / ERRORS_FILE).is_file() else None
        file = folder / CALIBRATION_FILE
        calibration = Calibration.read(file) if file.is_file() else None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: its scores cannot be read: {error}; train it again") from None
    shown = _view(str(folder), scores.model_dump(), errors, pages, max_image_mib)
    if calibration is None:
        return shown
    chart = Markup(reliability_chart(calibration.before, calibration.after))
    return replace(shown, calibration=calibration, calibrated=chart)


def _view(name: str, scores: dict[str, Any], errors: Errors | None, pages: int, max_image_mib: int) -> ScoredView:
    if errors is None:
        return ScoredView(name, scores, None, Markup(), [], [], [])
    kinds = [(kind, [counts[one] for one in KINDS]) for kind, counts in errors.kinds.items()]
    seen = [
        number
        for number, row in enumerate(errors.confusion)
        if any(row) or any(other[number] for other in errors.confusion)
    ]
    confusion = [
        (errors.types[row], [(errors.confusion[row][column], _share(errors.confusion[row], column)) for column in seen])
        for row in seen
    ]
    views = [view(page, max_image_mib) for page in errors.pages[:pages]]
    return ScoredView(name, scores, errors, Markup(reliability_chart(errors.bins)), kinds, confusion, views)


def _share(row: Sequence[int], column: int) -> float:
    return row[column] / (sum(row) or 1)


def _curves(metrics: Sequence[list[dict[str, Any]]]) -> list[tuple[str, Markup]]:
    """The charts of the metrics that any of the runs has."""
    curves = []
    for name, logarithmic in CURVES.items():
        lines = []
        for number, rows in enumerate(metrics):
            points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
            if points:
                xs, ys = zip(*points, strict=True)
                lines.append(Line(number, xs, ys))
        if lines and (name != LOSS_SCALE or len({y for line in lines for y in line.ys}) > 1):
            curves.append((name, Markup(line_chart(name, lines, logarithmic))))
    return curves


def _write(out: Path, **content: Any) -> None:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    folder = files("layoutner.reports")
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    page = environment.from_string((folder / "report.html").read_text(encoding="utf-8")).render(
        **content,
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup(style),
        script=Markup(script),
        # Only this script runs, whatever texts the page has; and nothing is loaded from elsewhere.
        script_hash=b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
        kinds=[(kind, slug(kind)) for kind in KINDS],
        no_type=NO_TYPE,
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(out) as file:
            file.write(page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error}") from None
