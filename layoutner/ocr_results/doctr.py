"""docTR's JSON (`result.export()`), which DocILE's OCR has too: words in lines in blocks, in fractions of the page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layoutner.files.text import read_json
from layoutner.ocr_results.result_files import LARGEST_JSON, ResultPage, read_results
from layoutner.pages.page import Page, Problem, Word
from layoutner.pages.text_lines import around


def read(path: Path, role: str) -> Iterator[Page | Problem]:
    """Read a docTR file or a folder of them. Lines are segments. Polygons of turned words become upright boxes.

    Args:
        path: a file, or a folder of .json files.
        role: ignored.

    Raises:
        DataError: the folder holds no such file.
    """
    yield from read_results(path, (".json",), "a docTR result", _parse)


def _parse(file: Path, notes: list[str]) -> list[ResultPage]:
    return [_page(page) for page in read_json(file, LARGEST_JSON, notes)["pages"]]


def _page(page: Any) -> ResultPage:
    height, width = page["dimensions"]
    lines = [line for block in page["blocks"] for line in block["lines"]]
    words = [
        Word(word["value"], around([(float(x), float(y)) for x, y in word["geometry"]]), None, number)
        for number, line in enumerate(lines)
        for word in line["words"]
    ]
    return ResultPage(words, (width, height), "fractions")
