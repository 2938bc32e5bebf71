"""Google Document AI: the JSON of a Document, whose tokens are parts of one text, in fractions of the page."""

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layoutner.errors import DataError
from layoutner.files.text import read_json
from layoutner.ocr_results.result_files import LARGEST_JSON, ResultPage, read_results
from layoutner.pages.page import Page, Problem, Word
from layoutner.pages.text_lines import LineBox, around


def read(path: Path, role: str) -> Iterator[Page | Problem]:
    """Read a Document of Google Document AI, or a folder of them. Tokens are words, and lines are segments.

    The keys may be those of the REST interface (`textAnchor`) or of the Python library (`text_anchor`).

    Args:
        path: a file, or a folder of .json files.
        role: ignored.

    Raises:
        DataError: the folder holds no such file.
    """
    yield from read_results(path, (".json",), "a Google Document AI response", _parse)


def _parse(file: Path, notes: list[str]) -> list[ResultPage]:
    document = read_json(file, LARGEST_JSON, notes)
    document = document.get("document", document)
    return [_page(page, document.get("text", "")) for page in document["pages"]]


def _page(page: Any, text: str) -> ResultPage:
    if not page.keys() & {"pageNumber", "page_number", "dimension", "layout"}:
        raise DataError(f"a page with the keys {', '.join(map(str, page))[:80]} is none of Document AI")
    size = page.get("dimension")
    page_size = (size["width"], size["height"]) if size else None
    lines = sorted(start for line in page.get("lines", ()) for start, _ in _segments(line["layout"])[:1])
    words: list[Word] = []
    for token in page.get("tokens", ()):
        segments = _segments(token["layout"])
        word = "".join(text[start:end] for start, end in segments).strip()
        if word:
            box = _box(token["layout"], page_size)
            words.append(Word(word, box, None, bisect_right(lines, segments[0][0]) if lines else None))
    if not words and text.strip() and "tokens" not in page:
        raise DataError(
            f"page {page.get('pageNumber', '')} has no tokens: use a processor that returns them, such as OCR"
        )
    return ResultPage(words, page_size, "fractions")


def _segments(layout: Any) -> list[tuple[int, int]]:
    """(start, end) in the text of the document. An index that is 0 is left out of the JSON."""
    anchor = _get(layout, "textAnchor") or {}
    return [
        (int(_get(one, "startIndex") or 0), int(_get(one, "endIndex"))) for one in _get(anchor, "textSegments") or ()
    ]


def _box(layout: Any, page_size: tuple[float, float] | None) -> LineBox:
    """In fractions of the page. A coordinate that is 0 is left out of the JSON."""
    polygon = _get(layout, "boundingPoly")
    points = _get(polygon, "normalizedVertices")
    width, height = (1.0, 1.0) if points else page_size or (0.0, 0.0)
    points = points or polygon["vertices"]
    if not width or not height:
        raise DataError("vertices are in pixels, and the page has no dimension")
    return around([(point.get("x", 0) / width, point.get("y", 0) / height) for point in points])


def _get(item: Any, name: str) -> Any:
    """The value of a key in the spelling of REST or of Python; None if it is missing."""
    return item.get(name, item.get("".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)))
