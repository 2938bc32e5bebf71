"""Charts as SVG: those of a report, whose style sheet gives them their colours, and those that are files."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator, NullLocator

from layoutner.objectives.errors import Bin

MAX_POINTS = 400  # of a line; the mean of neighbours makes one of a longer series
MARKED_POINTS = 40  # up to so many, each point has a mark

# Colours that stand for those of the style sheet, which depend on light and dark.
INK, GREY, PALE = "#000001", "#000002", "#000003"
SERIES = tuple(f"#0000{number:x}" for number in range(0x10, 0x18))
# What they are in a report, and in a file.
VARIABLES = {INK: "var(--ink)", GREY: "var(--muted)", PALE: "var(--line)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)
}
ON_WHITE = {INK: "#1a1a1a", GREY: "#5c5c5c", PALE: "#d9d9d9"} | dict(
    zip(
        SERIES,
        ("#1f5fa8", "#b4540a", "#1b7a3d", "#8e2f8e", "#a3262a", "#5a5ac8", "#8a6d00", "#007a87"),
        strict=True,
    )
)


DASHES = ("solid", "dashed", "dotted")  # of the first lines in all colours, the next, and so on

LOG_RATIO = 4.0  # the axis of a file is logarithmic if its largest value is this many times the smallest, or more


@dataclass(frozen=True)
class Line:
    """A line of a chart of a report."""

    colour: int  # number of its colour, from 0
    xs: Sequence[float]  # ascending
    ys: Sequence[float]


@dataclass(frozen=True)
class Mark:
    """A point of a line with a name."""

    x: float
    y: float
    half_width: float | None = None  # of the bar around it; None = no bar


@dataclass(frozen=True)
class NamedLine:
    """A line of a chart with a legend."""

    name: str
    marks: Sequence[Mark]


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


def reliability_chart(*lines: Sequence[Bin]) -> str:
    """The share of right tags by the probability that the model gives them, and the diagonal of a calibrated model."""
    figure, axes = _axes()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    for bins, colour in zip(lines, SERIES, strict=False):
        filled = [one for one in bins if one.words]
        axes.plot(
            [one.probability / one.words for one in filled],
            [one.correct / one.words for one in filled],
            color=colour,
            linewidth=1.6,
            marker="o",
            markersize=4,
        )
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("mean probability of the predicted tags", color=GREY)
    return _svg(figure, "share of right tags")


def chart(title: str, x_name: str, lines: Sequence[NamedLine], x_ticks: Sequence[float] | None = None) -> str:
    """A chart with a title and a legend below, as an SVG file.

    Args:
        x_ticks: values to mark on the horizontal axis; default: round ones.
    """
    figure, axes = _axes((8.0, 4.4 + 0.2 * len(lines)))
    for number, line in enumerate(lines):
        drawn, _, (bars,) = axes.errorbar(
            [mark.x for mark in line.marks],
            [mark.y for mark in line.marks],
            yerr=[math.nan if mark.half_width is None else mark.half_width for mark in line.marks],
            color=SERIES[number % len(SERIES)],
            linestyle=DASHES[number // len(SERIES) % len(DASHES)],
            linewidth=1.6,
            elinewidth=1.2,
            marker="o",
            markersize=4,
        )
        drawn.set_gid(f"line-{number}")
        bars.set_gid(f"bars-{number}")
        drawn.set_label(line.name)
    scale = ""
    if x_ticks is not None:
        xs = [*x_ticks, *(mark.x for line in lines for mark in line.marks)]
        if min(xs) > 0 and max(xs) / min(xs) >= LOG_RATIO:
            axes.set_xscale("log")
            scale = " (logarithmic)"
        axes.set_xticks(x_ticks, [f"{x:g}" for x in x_ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(title, loc="left", color=INK, fontsize=12, parse_math=False)
    axes.set_xlabel(f"{x_name}{scale}", color=GREY, parse_math=False)
    named = [line for line in axes.get_lines() if line.get_gid() and line.get_label()]
    legend = figure.legend(handles=named, loc="outside lower left", frameon=False, labelcolor=INK, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return _svg(figure, title, ON_WHITE)


def _axes(size: tuple[float, float] = (5.2, 2.9)) -> tuple[Figure, Axes]:
    figure = Figure(size, layout="constrained")
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


def _svg(figure: Figure, name: str, colours: Mapping[str, str] = VARIABLES) -> str:
    """The figure, with the name of what it shows for those who hear the page.

    Args:
        colours: what the colours of this module are. In a file the paper is white.
    """
    out = io.StringIO()
    # The name as salt keeps the ids of several charts on one page apart.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", transparent=colours is VARIABLES, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)  # it would hold for the whole page
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub("#0000(?:0[123]|1[0-7])", lambda found: colours[found[0]], text)
    return text.replace("<svg ", f'<svg role="img" aria-label={quoteattr(name)} ', 1)
