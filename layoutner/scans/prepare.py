"""PDFs and images become a file of pages in the jsonl format, ready to be labelled, trained on or predicted."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from layoutner.errors import DataError, SettingsError, raise_gathered
from layoutner.files.atomic import atomic_file, atomic_folder
from layoutner.files.image import PageImage, page_images, read_image
from layoutner.pages.page import Page, Problem
from layoutner.progress import task
from layoutner.scans import require_engine
from layoutner.scans.inputs import document_names, find_files
from layoutner.scans.reader import Scan, ScanReader
from layoutner.scans.workers import Lost, Workers
from layoutner.settings.data import DataSettings

PLACES = 2  # decimal places of boxes in points; a pixel at 200 dpi is 0.36


class Summary(NamedTuple):
    """What came from where."""

    files: int
    pages: int
    words: int
    by_text_layer: int
    by_ocr: int  # with those of the cache
    cached: int
    without_words: int
    confidence: float | None  # of OCR: mean over the pages
    left_out: tuple[Problem, ...]  # pages and files
    notes: tuple[str, ...]

    def __str__(self) -> str:
        sure = "" if self.confidence is None else f", mean confidence {self.confidence:.2f}"
        return (
            f"{self.files} files, {self.pages} pages, {self.words} words\n"
            f"  by text layer: {self.by_text_layer}\n"
            f"  by OCR:        {self.by_ocr}, of these {self.cached} from the cache{sure}\n"
            f"  without words: {self.without_words}\n"
            f"  left out:      {len(self.left_out)}"
        )


@dataclass(frozen=True)
class _Task:
    """A page to read, or a file whose pages are to be counted."""

    file: Path
    document: str
    image: PageImage | None = None
    number: int = 0  # of the page, from 1
    pages: int = 0
    picture: Path | None = None  # where its picture is to be written

    @property
    def source(self) -> str:
        """The name of the file or page in messages."""
        return f"{self.file.name} page {self.number}" if self.pages > 1 else self.file.name


@dataclass
class _Counts:
    pages: int = 0
    words: int = 0
    origins: dict[str, int] = field(default_factory=lambda: {"text layer": 0, "OCR": 0, "cache": 0})
    blank: int = 0
    sure: list[float] = field(default_factory=list)


def prepare(
    inputs: Sequence[Path | str],
    out: Path,
    settings: DataSettings,
    images: Path | None = None,
    jobs: int = 1,
) -> Summary:
    """Write the pages of PDFs and images as JSON lines. Nothing is written unless everything is.

    Args:
        inputs: files, folders and patterns; see `find_files`.
        out: the file to write. A line names the picture of its page: that in `images`, else the input file if it
            lies in the folder of `out`, else none.
        settings: format = "pdf" or "ocr"; ocr; bad_pages; max_image_mib.
        images: a new folder below that of `out`, for a PNG of every page.
        jobs: number of processes.

    Raises:
        SettingsError: a setting cannot be used, or needs something that is not installed.
        DataError: an input is missing, a page cannot be read (all of them are listed), or `out` cannot be written.
    """
    _require_places(out, images, jobs)
    if settings.format == "ocr":
        require_engine(settings.ocr)
    hidden: list[Path] = []
    files = find_files(inputs, hidden, images)
    notes = [f"note: {len(hidden)} hidden file(s) skipped, such as {hidden[0]}"] if hidden else []
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            lines = stack.enter_context(atomic_file(out))
            folder = None if images is None else stack.enter_context(atomic_folder(images))
            workers: Workers[_Task, list[PageImage] | Scan | Problem]
            workers = stack.enter_context(Workers(jobs, _open_work, settings))
            counts, problems = _Counts(), list[Problem]()
            tasks = list(_page_tasks(workers, files, folder, problems))
            for one, found in _read(workers, tasks):
                if isinstance(found, Problem):
                    problems.append(found)
                    continue
                lines.write(_line(found.page, _reference(one, found.page, out, images, folder)))
                _count(counts, found)
            if settings.bad_pages == "stop":
                what = f"{len(problems)} problem(s) in the input (--data.bad_pages skip leaves such pages out)"
                raise_gathered(DataError, what, [str(problem) for problem in problems])
            elif not counts.pages:
                raise_gathered(DataError, "no page could be read", [str(problem) for problem in problems])
    except OSError as error:
        raise DataError(f"--out {out}: cannot be written: {error}") from None
    sure = sum(counts.sure) / len(counts.sure) if counts.sure else None
    by_layer, read_now, cached = (counts.origins[origin] for origin in ("text layer", "OCR", "cache"))
    return Summary(
        *(len(files), counts.pages, counts.words, by_layer, read_now + cached, cached, counts.blank, sure),
        left_out=tuple(problems),
        notes=tuple(notes),
    )


def _require_places(out: Path, images: Path | None, jobs: int) -> None:
    if jobs < 1:
        raise SettingsError(f"--jobs {jobs}: at least one is needed")
    if out.exists() and not out.is_file():
        raise SettingsError(f"--out {out}: is {'a folder; name a file in it' if out.is_dir() else 'not a file'}")
    if images is None:
        return
    if not Path(os.path.abspath(images)).is_relative_to(os.path.abspath(out.parent)) or _same(images, out.parent):
        raise SettingsError(f"--images {images}: must be a folder below {out.parent}, where --out is")
    if images.exists() and (not images.is_dir() or any(images.iterdir())):
        raise SettingsError(f"--images {images}: exists; remove it, or name another folder")


def _same(path: Path, other: Path) -> bool:
    return os.path.abspath(path) == os.path.abspath(other)


def _open_work(settings: DataSettings) -> Callable[[_Task], list[PageImage] | Scan | Problem]:
    """The work of a process."""
    reader = ScanReader(settings)

    def work(one: _Task) -> list[PageImage] | Scan | Problem:
        try:
            if one.image is None:
                return page_images(one.file)
            found = reader.read(one.image, one.document, one.number, one.pages)
            if one.picture is not None and isinstance(found, Scan):
                one.picture.parent.mkdir(parents=True, exist_ok=True)
                read_image(one.image, settings.max_image_mib).save(one.picture, "PNG")
            return found
        except DataError as error:
            return Problem(one.source, "unreadable", str(error))
        except OSError as error:
            raise DataError(f"--images: cannot be written: {error}") from None

    return work


def _page_tasks(
    workers: "Workers[_Task, list[PageImage] | Scan | Problem]",
    files: Sequence[Path],
    folder: Path | None,
    problems: list[Problem],
) -> Iterator[_Task]:
    """A task for every page of every file. Files that cannot be opened become problems."""
    tasks = [_Task(file, document) for file, document in zip(files, document_names(files), strict=True)]
    for one, found in zip(tasks, workers.run(tasks), strict=True):
        if isinstance(found, Lost):
            problems.append(Problem(one.source, "unreadable", found.why))
        elif isinstance(found, Problem):
            problems.append(found)
        elif isinstance(found, list):
            pages = len(found)
            for number, image in enumerate(found, 1):
                name = f"{one.document}.png" if pages == 1 else f"{one.document}/{number}.png"
                picture = None if folder is None else folder / name
                yield _Task(one.file, one.document, image, number, pages, picture)


def _read(
    workers: "Workers[_Task, list[PageImage] | Scan | Problem]", tasks: Sequence[_Task]
) -> Iterator[tuple[_Task, Scan | Problem]]:
    with task("reading words of pages", len(tasks), "pages") as progress:
        for one, found in zip(tasks, workers.run(tasks), strict=True):
            progress.advance(note=one.source)
            if isinstance(found, Lost):
                yield one, Problem(one.source, "unreadable", found.why)
            elif not isinstance(found, list):
                yield one, found


def _reference(one: _Task, page: Page, out: Path, images: Path | None, folder: Path | None) -> tuple[str, int | None]:
    """("image", "frame") of a line; ("", None) if it has no picture."""
    frame = None
    if images is not None and folder is not None and one.picture is not None:
        path = images / one.picture.relative_to(folder)
    elif page.image is not None:
        path, frame = page.image
    name = os.path.relpath(os.path.abspath(path), os.path.abspath(out.parent))
    if Path(name).parts[:1] == ("..",) or not name.isprintable():
        return "", None
    return name, frame


def _line(page: Page, reference: tuple[str, int | None]) -> bytes:
    """A page as a line of the jsonl format (see `layoutner/readers/jsonl.py`)."""
    name, frame = reference
    tree = {
        "document": page.name,
        "group": page.group,
        "page_size": [_rounded(side, PLACES + 1) for side in page.page_size],
        "unit": "pixels",
        "image": name or None,
        "frame": frame,
        "words": [
            {"text": word.text, "box": [_rounded(side, PLACES) for side in word.box], "segment": word.segment}
            for word in page.words
        ],
    }
    known = {key: value for key, value in tree.items() if value is not None}
    return json.dumps(known, ensure_ascii=False).encode("utf-8") + b"\n"


def _rounded(side: float, places: int) -> float:
    """A whole number without its ".0": engines give both, and the cache gives them back as decimals."""
    side = round(side, places)
    return int(side) if side == int(side) else side


def _count(counts: _Counts, found: Scan) -> None:
    counts.pages += 1
    counts.words += len(found.page.words)
    counts.origins[found.origin] += 1
    counts.blank += not found.page.words
    if found.confidence is not None:
        counts.sure.append(found.confidence)
