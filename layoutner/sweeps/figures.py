"""The results of a sweep as figures: SVG files, which browsers and documentation show. Does not import torch."""

from collections.abc import Sequence

from layoutner.files.atomic import remove, write_text
from layoutner.reports.charts import Mark, NamedLine, chart
from layoutner.sweeps.results import PointResult, show
from layoutner.sweeps.sweep import Sweep

POINTS_FIGURE = "sweep.svg"
CURVES_FIGURE = "curves.svg"


def draw_figures(sweep: Sweep, results: Sequence[PointResult]) -> None:
    """Write the figures that the results allow, and remove earlier ones that they do not.

    Raises:
        OSError: they cannot be written.
    """
    for name, text in ((POINTS_FIGURE, points_figure(sweep, results)), (CURVES_FIGURE, curves_figure(sweep, results))):
        if text is None:
            remove(sweep.folder / name)
        else:
            write_text(sweep.folder / name, text)


def points_figure(sweep: Sweep, results: Sequence[PointResult]) -> str | None:
    """F1 against the numeric setting of the grid with most values; None if there is none, or no score.

    Each combination of the other values is a line.
    """
    numeric = sweep.numeric_grid()
    if not numeric:
        return None
    key = max(numeric, key=lambda one: len(numeric[one]))
    lines: dict[str, list[Mark]] = {}
    for result in sorted(results, key=lambda result: result.point.number):
        if (f1 := result.mean("f1")) is not None:
            mark = Mark(result.point.values[key], f1, result.interval)
            lines.setdefault(_name(sweep, result, key), []).append(mark)
    drawn = [NamedLine(name, sorted(marks, key=lambda mark: mark.x)) for name, marks in lines.items()]
    some = any(mark.half_width is not None for line in drawn for mark in line.marks)
    bars = ", with the 95% confidence interval of the mean" if some else ""
    return chart(f"F1 on data.eval by {key}{bars}", key, drawn, numeric[key]) if drawn else None


def curves_figure(sweep: Sweep, results: Sequence[PointResult]) -> str | None:
    """F1 against optimizer steps, one line for each point, the mean over its seeds; None if there is no score yet."""
    drawn = [
        NamedLine(_name(sweep, result), [Mark(step, f1) for step, f1 in curve])
        for result in results
        if (curve := result.mean_curve())
    ]
    return chart("F1 on data.eval by optimizer step", "optimizer steps", drawn) if drawn else None


def _name(sweep: Sweep, result: PointResult, without: str | None = None) -> str:
    values = {sweep.labels[key]: value for key, value in result.point.values.items() if key != without}
    return ", ".join(f"{label} = {show(value)}" for label, value in values.items())
