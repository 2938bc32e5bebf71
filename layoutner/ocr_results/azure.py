"""Azure Document Intelligence, before it Form Recognizer: words as polygons, in inches (PDFs) or pixels (images)."""

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
    """Read a response of versions 2 to 4, or a folder of them. Lines are segments.

    The file may have the whole response or its analyzeResult, with the keys of the REST interface (`pageNumber`) or of
    the Python library (`page_number`).

    Args:
        path: a file, or a folder of .json files.
        role: ignored.

    Raises:
        DataError: the folder holds no such file.
    """
    yield from read_results(path, (".json",), "an Azure Document Intelligence response", _parse)


def _parse(file: Path, notes: list[str]) -> list[ResultPage]:
    response = read_json(file, LARGEST_JSON, notes)
    result = response.get("analyzeResult", response.get("analyze_result", response))
    if not isinstance(result, dict) or not {"pages", "readResults"} & result.keys():
        raise DataError(f"{file}: not a finished response: it has no pages (status {str(response.get('status'))[:40]})")
    if "readResults" in result:  # version 2
        return [_page(page, _words_of_lines(page)) for page in result["readResults"]]
    return [_page(page, _words_and_lines(page)) for page in result["pages"]]


def _page(page: Any, words: list[tuple[str, Any, int | None]]) -> ResultPage:
    width, height = float(page["width"]), float(page["height"])
    made = []
    for text, polygon, line in words:
        x0, y0, x1, y1 = _box(polygon)
        made.append(Word(text, (x0 / width, y0 / height, x1 / width, y1 / height), None, line))
    return ResultPage(made, (width, height), "fractions")


def _words_of_lines(page: Any) -> list[tuple[str, Any, int | None]]:
    if "lines" not in page:
        raise DataError(f"page {page.get('page', '')} has no lines: ask for them with includeTextDetails=true")
    return [
        (word["text"], word["boundingBox"], number)
        for number, line in enumerate(page["lines"])
        for word in line["words"]
    ]


def _words_and_lines(page: Any) -> list[tuple[str, Any, int | None]]:
    """Words are not inside lines: both are parts of the text of the document, by offset and length."""
    starts = sorted(
        (span["offset"], number) for number, line in enumerate(page.get("lines") or ()) for span in line["spans"]
    )
    found: list[tuple[str, Any, int | None]] = []
    for word in page.get("words") or ():
        before = bisect_right(starts, (word["span"]["offset"], len(starts))) if starts else 0
        polygon = word.get("polygon") or word.get("boundingBox") or word.get("bounding_box")
        found.append((word["content"], polygon, starts[before - 1][1] if before else None))
    # A page's words are in lines, or none is.
    return found if all(line is not None for *_, line in found) else [(text, box, None) for text, box, _ in found]


def _box(polygon: Any) -> LineBox:
    """The upright box around [x, y, x, y, ...] or [{"x": x, "y": y}, ...]."""
    if polygon and isinstance(polygon[0], dict):
        return around([(point["x"], point["y"]) for point in polygon])
    return around(list(zip(polygon[::2], polygon[1::2], strict=True)))
