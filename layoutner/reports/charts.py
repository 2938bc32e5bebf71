"""Charts of a report, as SVG to put into the page, whose style sheet gives them their colours."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from layoutner.objectives.errors import Errors

MAX_POINTS = 400  # of a line; the mean of neighbours makes one of a longer series
MARKED_POINTS = 40  # up to so many, each point has a mark

# Colours that stand for those of the style sheet, which depend on light and dark.
INK, GREY, PALE = "#000001", "#000002", "#000003"
SERIES = tuple(f"#0000{number:x}" for number in range(0x10, 0x18))
VARIABLES = {INK: "ink", GREY: "muted", PALE: "line"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES)
}


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    colour: int  # number of its colour, from 0
    xs: Sequence[float]  # ascending
    ys: Sequence[float]


def line_chart(name: str, lines: Sequence[Line], logarithmic: bool = False) -> str:
    """A metric by optimizer step.

    Args:
        name: of the metric.
        logarithmic: whether its axis is; only if all values are positive.
    """
    figure, axes = _axes()
    for line in lines:
        xs, ys = _thinned(line.xs), _thinned(line.ys)
        marker = "o" if len(xs) <= MARKED_POINTS else ""
        axes.plot(xs, ys, color=SERIES[line.colour % len(SERIES)], linewidth=1.6, marker=marker, markersize=3.5)
    if logarithmic and all(y > 0 for line in lines for y in line.ys):
        axes.set_yscale("log")
        for part in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            part(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
    axes.set_xlabel("optimizer step", color=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    return _svg(figure, name)


def reliability_chart(errors: Errors) -> str:
    """The share of right tags by the probability that the model gives them, and the diagonal of a calibrated model."""
    figure, axes = _axes()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    filled = [one for one in errors.bins if one.words]
    axes.plot(
        [one.probability / one.words for one in filled],
        [one.correct / one.words for one in filled],
        color=SERIES[0],
        linewidth=1.6,
        marker="o",
        markersize=4,
    )
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("mean probability of the predicted tags", color=GREY)
    return _svg(figure, "share of right tags")


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 2.9), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor=INK, which="both", labelsize=9)
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _thinned(values: Sequence[float]) -> list[float]:
    """At most `MAX_POINTS` values: the means of neighbours."""
    size = -(-len(values) // MAX_POINTS)
    parts = [values[start : start + size] for start in range(0, len(values), size)] if size > 1 else []
    return [sum(part) / len(part) for part in parts] or list(values)


def _svg(figure: Figure, name: str) -> str:
    """The figure, with the name of what it shows for those who hear the page."""
    out = io.StringIO()
    # The name as salt keeps the ids of several charts on one page apart.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)  # it would hold for the whole page
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub("#0000(?:0[123]|1[0-7])", lambda found: f"var(--{VARIABLES[found[0]]})", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)
