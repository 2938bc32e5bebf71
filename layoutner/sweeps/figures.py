"""The results of a sweep as figures: SVG files, which browsers and documentation show. Does not import torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from layoutner.files.atomic import remove, write_text
from layoutner.sweeps.results import PointResult, show
from layoutner.sweeps.sweep import Sweep

POINTS_FIGURE = "sweep.svg"
CURVES_FIGURE = "curves.svg"

INK, GREY, PALE = "#1a1a1a", "#5c5c5c", "#d9d9d9"
COLOURS = ("#1f5fa8", "#b4540a", "#1b7a3d", "#8e2f8e", "#a3262a", "#5a5ac8", "#8a6d00", "#007a87")
DASHES = ("", "8 4", "2 3")  # of the first lines in all colours, the next, and so on
LEFT, TOP, WIDE, HIGH, LINE = 76, 52, 700, 340, 20  # pixels: the axes, and a line of the legend

LOG_RATIO = 4.0  # the axis is logarithmic if the largest value is this many times the smallest, or more


@dataclass(frozen=True)
class Mark:
    """A point of a line."""

    x: float
    y: float
    half_width: float | None = None  # of the bar around it; None = no bar


@dataclass(frozen=True)
class Line:
    """A line of a chart, with its name in the legend."""

    name: str
    marks: Sequence[Mark]


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
    drawn = [Line(name, sorted(marks, key=lambda mark: mark.x)) for name, marks in lines.items()]
    some = any(mark.half_width is not None for line in drawn for mark in line.marks)
    bars = ", with the 95% confidence interval of the mean" if some else ""
    return chart(f"F1 on data.eval by {key}{bars}", key, drawn, numeric[key]) if drawn else None


def curves_figure(sweep: Sweep, results: Sequence[PointResult]) -> str | None:
    """F1 against optimizer steps, one line for each point, the mean over its seeds; None if there is no score yet."""
    drawn = [
        Line(_name(sweep, result), [Mark(step, f1) for step, f1 in curve])
        for result in results
        if (curve := result.mean_curve())
    ]
    return chart("F1 on data.eval by optimizer step", "optimizer steps", drawn) if drawn else None


def _name(sweep: Sweep, result: PointResult, without: str | None = None) -> str:
    values = {sweep.labels[key]: value for key, value in result.point.values.items() if key != without}
    return ", ".join(f"{label} = {show(value)}" for label, value in values.items())


def chart(title: str, x_name: str, lines: Sequence[Line], x_ticks: Sequence[float] | None = None) -> str:
    """A line chart with a legend below, as SVG.

    Args:
        x_ticks: values to mark on the horizontal axis; default: round ones.
    """
    marks = [mark for line in lines for mark in line.marks]
    ends = [mark.y + sign * (mark.half_width or 0.0) for mark in marks for sign in (-1, 1)]
    low, high = _widen(min(ends), max(ends), 0.01)
    xs = [*(mark.x for mark in marks), *(x_ticks or ())]
    x_log = x_ticks is not None and min(xs) > 0 and max(xs) / min(xs) >= LOG_RATIO
    first, last = _widen(*((math.log(min(xs)), math.log(max(xs))) if x_log else (min(xs), max(xs))), 1.0)

    def at(x: float, y: float) -> tuple[float, float]:
        across = ((math.log(x) if x_log else x) - first) / (last - first)
        return LEFT + WIDE * across, TOP + HIGH * (1 - (y - low) / (high - low))

    named = [line for line in lines if line.name]
    width, height = LEFT + WIDE + 24, TOP + HIGH + 64 + LINE * len(named)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="DejaVu Sans, Verdana, sans-serif" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(16, 28, title, INK, 16),
    ]
    for y in _round_ticks(low, high):
        _, down = at(xs[0], y)
        parts += [
            _line([(LEFT, down), (LEFT + WIDE, down)], PALE),
            _text(LEFT - 8, down + 4, f"{y:g}", GREY, 12, "end"),
        ]
    bottom = TOP + HIGH
    for x in x_ticks or [tick for tick in _round_ticks(first, last) if min(xs) <= tick <= max(xs)]:
        across, _ = at(x, low)
        parts.append(_line([(across, bottom), (across, bottom + 5)], GREY))
        parts.append(_text(across, bottom + 20, f"{x:g}", GREY, 12, "middle"))
    parts.append(_line([(LEFT, bottom), (LEFT + WIDE, bottom)], GREY))
    scale = " (logarithmic)" if x_log else ""
    parts.append(_text(LEFT + WIDE / 2, bottom + 42, f"{x_name}{scale}", GREY, 13, "middle"))
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        dash = DASHES[number // len(COLOURS) % len(DASHES)]
        parts.append(_line([at(mark.x, mark.y) for mark in line.marks], colour, 2, dash))
        for mark in line.marks:
            across, down = at(mark.x, mark.y)
            parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3.5" fill="{colour}"/>')
            if mark.half_width is not None:
                parts.append(_line([at(mark.x, mark.y + sign * mark.half_width) for sign in (-1, 1)], colour, 1.5))
        if line.name:
            down = bottom + 64 + LINE * named.index(line)
            parts.append(_line([(LEFT, down), (LEFT + 32, down)], colour, 2, dash))
            parts.append(_text(LEFT + 42, down + 4, line.name, INK, 12))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _widen(low: float, high: float, least: float) -> tuple[float, float]:
    """A range with some room at both ends."""
    room = 0.05 * (high - low) or least
    return low - room, high + room


def _round_ticks(low: float, high: float) -> list[float]:
    """About five round numbers within a range: multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= 6)
    return [round(number * step, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _text(x: float, y: float, text: str, fill: str, size: int, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _line(points: Sequence[tuple[float, float]], stroke: str, width: float = 1, dash: str = "") -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{joined}" fill="none" stroke="{stroke}" stroke-width="{width:g}"{dashes}/>'
