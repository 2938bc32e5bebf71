"""Lines of text with one box: cut into words, and put into reading order."""

from collections.abc import Iterator, Sequence

LineBox = tuple[float, float, float, float]  # x0, y0, x1, y1, in any unit


def cut_line(text: str, box: LineBox) -> Iterator[tuple[str, LineBox]]:
    """The words of a line, each with a part of the line's box in proportion to its characters.

    Args:
        text: words separated by white space.
        box: of the whole text.
    """
    text = text.strip()
    left, top, right, bottom = box
    width = right - left
    start = 0
    for word in text.split():
        start = text.index(word, start)
        end = start + len(word)
        yield word, (left + width * start / len(text), top, left + width * end / len(text), bottom)
        start = end


def reading_order(boxes: Sequence[LineBox]) -> list[int]:
    """Indices of boxes from top to bottom, and from left to right within a line.

    A box belongs to the line above if its middle is above the bottom of that line's first box. Columns are not
    recognised.
    """
    lines: list[list[int]] = []
    bottom = 0.0
    for index in sorted(range(len(boxes)), key=lambda index: (boxes[index][1] + boxes[index][3], boxes[index][0])):
        _, y0, _, y1 = boxes[index]
        if not lines or (y0 + y1) / 2 >= bottom:
            lines.append([])
            bottom = y1
        lines[-1].append(index)
    return [index for line in lines for index in sorted(line, key=lambda index: boxes[index][0])]


def around(points: Sequence[tuple[float, float]]) -> LineBox:
    """The smallest upright box around some points, of which there is at least one."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)
