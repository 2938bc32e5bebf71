"""Draw the rooms of layoutner and their imports: `python docs/rooms.py > docs/images/rooms.svg`.

An arrow leads from a room to a room that it imports. An import that follows from others is not drawn: if training
imports engine and engine imports models, the arrow from training to models is left out.
"""

import ast
from itertools import pairwise
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "layoutner"
WIDTH, HEIGHT, GAP_X, GAP_Y = 144, 30, 26, 34  # pixels
CROSSING = 0.35  # room that an arrow takes in a row that it crosses; a name takes 1
SWEEPS = 20  # rounds in which every row is put in the order of its neighbours


def read_imports() -> dict[str, set[str]]:
    """Room -> the rooms that its modules import."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("layoutner."):
                found.setdefault(room, set()).add(str(node.module).split(".")[1])
            else:
                found.setdefault(room, set())
    return {room: names - {room} for room, names in found.items() if not room.startswith("__")}


def reduce_transitively(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same graph without the edges that follow from others. It must have no circle."""

    def below(room: str) -> set[str]:
        return set().union(*({other} | below(other) for other in graph[room]))

    return {
        room: {other for other in others if not any(other in below(one) for one in others - {other})}
        for room, others in graph.items()
    }


def place(graph: dict[str, set[str]]) -> tuple[dict[str, tuple[float, int]], list[list[str]]]:
    """Put rooms into rows, each above all that it imports.

    Returns:
        Name -> (column, row), row 0 at the bottom, and the path of every arrow as names. Where an arrow crosses a row,
        it goes through a name of its own there.
    """
    row: dict[str, int] = {}

    def depth(room: str) -> int:
        if room not in row:
            row[room] = 1 + max((depth(other) for other in graph[room]), default=-1)
        return row[room]

    for room in graph:
        depth(room)
    paths = []
    for room, others in graph.items():
        for other in sorted(others):
            crossed = [f"{room}>{other}>{at}" for at in range(row[room] - 1, row[other], -1)]
            row.update({name: int(name.split(">")[2]) for name in crossed})
            paths.append([room, *crossed, other])
    neighbours: dict[str, list[str]] = {name: [] for name in row}
    for path in paths:
        for one, other in pairwise(path):
            neighbours[one].append(other)
            neighbours[other].append(one)
    rows = [sorted(name for name in row if row[name] == at) for at in range(max(row.values()) + 1)]
    column = {name: float(at) for names in rows for at, name in enumerate(names)}
    for _ in range(SWEEPS):
        for names in rows:
            wanted = {n: sum(column[o] for o in neighbours[n]) / max(1, len(neighbours[n])) for n in names}
            names.sort(key=lambda name: (wanted[name], name))
            # Every row is centred; where an arrow crosses a row it takes less room than a name.
            widths = [1.0 if name in graph else CROSSING for name in names]
            left = -sum(widths) / 2
            for name, width in zip(names, widths, strict=True):
                column[name], left = left + width / 2, left + width
    least = min(column.values())
    return {name: (column[name] - least, row[name]) for name in row}, paths


def draw(graph: dict[str, set[str]]) -> str:
    """The graph as SVG."""
    where, paths = place(graph)
    top = max(row for _, row in where.values())

    def center(name: str) -> tuple[float, float]:
        column, row = where[name]
        return GAP_X + WIDTH / 2 + column * (WIDTH + GAP_X), GAP_Y / 2 + HEIGHT / 2 + (top - row) * (HEIGHT + GAP_Y)

    width = max(center(name)[0] + (WIDTH / 2 if name in graph else 0) for name in where) + GAP_X
    height = center(min(graph, key=lambda room: where[room][1]))[1] + HEIGHT / 2 + GAP_Y / 2
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-family="sans-serif">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#607d8b"/></marker></defs>',
        f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
    ]
    for path in paths:
        points = [center(name) for name in path]
        (x0, y0), (x1, y1) = points[0], points[-1]
        points[0], points[-1] = (x0, y0 + HEIGHT / 2), (x1, y1 - HEIGHT / 2)
        steps = " ".join(f"{x:g},{y:g}" for x, y in points)
        lines.append(f'<polyline points="{steps}" fill="none" stroke="#607d8b" marker-end="url(#head)"/>')
    for room in graph:
        x, y = center(room)
        lines.append(
            f'<rect x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH}" height="{HEIGHT}" rx="5" '
            'fill="#e3f2fd" stroke="#1565c0"/>'
            f'<text x="{x:g}" y="{y + 5:g}" font-size="14" text-anchor="middle" fill="#0d2b45">{room}</text>'
        )
    return "\n".join([*lines, "</svg>"])


if __name__ == "__main__":
    print(draw(reduce_transitively(read_imports())))
