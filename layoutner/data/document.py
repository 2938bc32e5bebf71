"""One page: words, their boxes, and, where they are known, their labels."""

from dataclasses import dataclass
from pathlib import Path

from layoutner.config.errors import UserError

Box = tuple[int, int, int, int]  # x0, y0, x1, y1, in thousandths of the page's width and height


@dataclass(frozen=True)
class Document:
    """A page of words. `words`, `boxes` and `tags` run in parallel; `tags` is None where nobody labelled it."""

    name: str
    words: tuple[str, ...]
    boxes: tuple[Box, ...]
    tags: tuple[str, ...] | None  # "O", or prefix-type such as "B-HEADER"
    page_size: tuple[int, int]  # width, height, in pixels
    image: Path | None = None


def scale_box(box: tuple[float, float, float, float], page_size: tuple[int, int]) -> Box:
    """Pixels to thousandths of the page, rounded down as in the LayoutLM preprocessing."""
    width, height = page_size
    x0, y0, x1, y1 = box
    return (int(1000 * x0 / width), int(1000 * y0 / height), int(1000 * x1 / width), int(1000 * y1 / height))


def box_problem(box: Box) -> str | None:
    """What is wrong with a scaled box, or None."""
    x0, y0, x1, y1 = box
    if min(box) < 0 or max(box) > 1000:
        return f"box {list(box)} leaves the page (0..1000)"
    if x1 < x0 or y1 < y0:
        return f"box {list(box)} is inverted (x1 < x0 or y1 < y0)"
    return None


def read_text(path: Path) -> str:
    """A UTF-8 file's text.

    Raises:
        UserError: missing, not a file, not readable, not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
