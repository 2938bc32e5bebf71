"""Stream documents for prediction or evaluation, from a path or from standard input."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

from layoutner.documents.roles import Labels, stream
from layoutner.errors import DataError, raise_gathered
from layoutner.files.image import SUFFIXES
from layoutner.files.pdf import SUFFIX as PDF_SUFFIX
from layoutner.files.text import is_hidden, printable
from layoutner.pages.document import Document
from layoutner.pages.page import Problem, ReadStats
from layoutner.readers.foreign import recognise
from layoutner.readers.jsonl import STDIN
from layoutner.readers.live import standard_input
from layoutner.settings.data import DataSettings, FormatName, OcrResultName

OCR_RESULT_NAMES: tuple[OcrResultName, ...] = get_args(OcrResultName)
OCR_RESULTS = (".json", ".xml", ".hocr", ".html")  # suffixes of files that several OCR engines write


def guess_format(path: Path) -> FormatName:
    """Guess the format of a file or folder by the names of its files.

    jsonl for .jsonl and stdin; pdf if all are PDFs or images, or ocr if they are images only; else funsd. A single
    .json, .xml, .hocr or .html file is looked into, and read as the OCR result that it is.
    """
    if path == STDIN or path.suffix.lower() == ".jsonl":
        return "jsonl"
    if path.suffix.lower() in OCR_RESULTS and path.is_file():
        kind = recognise(path)
        found = next((name for name in OCR_RESULT_NAMES if kind is not None and kind.format == name), None)
        return found or "funsd"
    names = [path] if path.is_file() else (entry for entry in _entries(path) if not is_hidden(entry))
    suffixes = {name.suffix.lower() for name in names}
    if not suffixes or not suffixes <= {PDF_SUFFIX, *SUFFIXES}:
        return "funsd"
    return "pdf" if PDF_SUFFIX in suffixes else "ocr"


def _entries(path: Path) -> Iterator[Path]:
    try:
        yield from path.iterdir()
    except OSError:
        return  # the reader reports the error


class ReportingStats(ReadStats):
    """ReadStats that also print each skipped page to standard error at once."""

    def skip(self, problem: Problem) -> None:
        super().skip(problem)
        print(printable(f"left out: {problem}"), file=sys.stderr, flush=True)

    def skip_all(self, problems: list[Problem]) -> None:
        """Count and report skipped pages."""
        for problem in problems:
            self.skip(problem)


def refuse(problems: list[Problem]) -> None:
    """Raise a UserError for pages without a usable image."""
    what = f"{len(problems)} document(s) have no page image, which the model needs"
    raise_gathered(DataError, what, [str(problem) for problem in problems])


def lost_pages(settings: DataSettings, stats: ReportingStats) -> Callable[[list[Problem]], None]:
    """Handler for pages without a usable image, if the network needs images: skip or raise, by data.bad_pages."""
    return stats.skip_all if settings.bad_pages == "skip" else refuse


def has_next(path: Path) -> bool:
    """Whether the next page of `documents` can be had without waiting for who writes to standard input."""
    lines = standard_input() if path == STDIN else None
    return lines is None or lines.has_next()


def documents(
    settings: DataSettings, path: Path, split: str, stats: ReadStats, labels: Labels
) -> Iterator[Document | None]:
    """Yield documents lazily, to predict (labels = "ignore") or to evaluate (labels = "require").

    A page that is skipped yields None, so that nobody waits for the next page without having had this one's turn.

    Raises:
        DataError: a page cannot be used, or there is no page.
    """
    count = 0
    for found in stream(settings, path, split, stats, said="--input", labels=labels):
        if not isinstance(found, Document):
            problems = [str(problem) for problem in found if problem.fatal]
            advice = "--data.bad_pages skip leaves such pages out"
            raise_gathered(DataError, f"{len(problems)} problem(s) in a page of {path} ({advice})", problems)
            yield None
        else:
            count += 1
            yield found
    if not count and not stats.skipped:
        raise DataError(f"{'standard input' if path == STDIN else f'--input {path}'}: holds no document")
