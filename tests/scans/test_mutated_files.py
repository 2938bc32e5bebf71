"""Five hundred damaged PDFs and images: each gives pages or one error that names it, in processes that are watched.

Nothing hangs, no process dies, and nothing is left behind.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from layoutner.errors import DataError
from layoutner.files.image import page_images
from layoutner.pages.page import Page, Problem, ReadStats, to_document
from layoutner.scans import reader as scan_reader
from layoutner.scans import workers
from layoutner.scans.engine import SeenWord
from layoutner.scans.reader import Scan, ScanReader
from layoutner.scans.workers import Lost, Workers
from layoutner.settings.data import DataSettings
from layoutner.settings.tree import load
from tests.builders.mutations import mutated_bytes
from tests.builders.pdfs import Sheet, pdf, scan, text
from tests.builders.processes import call

COUNT = 500
LONGEST_S = 60.0  # for a file of a few kilobytes


def damaged_files(count: int) -> Iterator[tuple[str, bytes]]:
    """(name, content) of mutated PDFs, two of three, and images."""
    lines = b"".join(text(72, 700 - 20 * line, f"LINE {line}") for line in range(12))
    form = Sheet(text(72, 700, "NAME"), field=("VALUE", (100, 600, 250, 620)), rotate=90, crop=(50, 400, 612, 792))
    sound = [
        ("pdf", pdf(Sheet(lines), form)),
        (
            "pdf",
            pdf(scan("Total 93.50", size=(200, 100)), Sheet(text(72, 700, "A B", font="F2"), unicode={65: "fb01"})),
        ),
        ("pdf", pdf(Sheet(lines), password="")),
        ("pdf", pdf(form)),
    ]
    for kind in ("png", "tiff"):
        content = BytesIO()
        Image.effect_noise((90, 60), 60).save(content, kind)
        sound.append((kind, content.getvalue()))
    for number in range(count):
        suffix, whole = sound[number % len(sound)]
        yield f"{number:05}.{suffix}", next(mutated_bytes(whole, 1, number))


class Engine:
    """Stands in for an OCR engine: the words do not matter here, and tesseract would take minutes."""

    name, version = "stand-in", "1"

    def read(self, picture: Image.Image) -> list[SeenWord]:
        """One word on the whole page."""
        return [SeenWord("word", (0, 0, *picture.size), 0, 1.0)]


def open_work(settings: DataSettings) -> Callable[[Path], list[Scan | Problem]]:
    """Reads all pages of a file, in a process."""
    scan_reader.open_engine = lambda _: Engine()
    reader = ScanReader(settings)

    def work(file: Path) -> list[Scan | Problem]:
        try:
            images = page_images(file)
        except DataError as error:
            return [Problem(file.name, "unreadable", str(error))]
        return [reader.read(image, file.stem, number, len(images)) for number, image in enumerate(images, 1)]

    return work


def test_damaged_files_give_pages_or_one_error_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LONGEST_TASK_S", LONGEST_S)
    settings = load(None, {"data": {"format": "pdf", "max_image_mib": "100"}, "ocr": {"cache": "off"}}).data
    files = []
    for name, content in damaged_files(COUNT):
        files.append(tmp_path / name)
        files[-1].write_bytes(content)
    ends: Counter[str] = Counter()
    with Workers[Path, list[Scan | Problem]](2, open_work, settings) as some:
        for file, found in zip(files, some.run(files), strict=True):
            assert not isinstance(found, Lost), f"{file.name}: {found.why}"
            assert found
            for page in found:
                ends[f"{file.suffix} {type(page).__name__}"] += 1
                if isinstance(page, Problem):
                    assert file.name in page.source
                    assert "\n" not in page.what
                else:
                    assert_sound(page.page)
    assert sorted(path for path in tmp_path.iterdir()) == files
    # Neither all are refused nor all are read. A PNG has a checksum that any damage breaks.
    assert all(ends[f"{suffix} {end}"] > 10 for suffix in (".pdf", ".tiff") for end in ("Scan", "Problem")), ends
    assert ends[".png Problem"] > 10


def assert_sound(page: Page) -> None:
    """A page is a document without problems: its boxes lie on it, and its words are text."""
    document, problems = to_document(page, "none", ReadStats())
    assert document is not None, problems
    assert not [problem for problem in problems if problem.fatal]


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="no tesseract: apt-get install tesseract-ocr")
def test_a_folder_of_damaged_files_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "in"
    folder.mkdir()
    for name, content in damaged_files(24):
        (folder / name).write_bytes(content)
    out = tmp_path / "out" / "pages.jsonl"
    command = ("data", "prepare", folder, "--out", out, "--images", out.parent / "images", "--jobs", "2")
    code, printed, err = call(capsys, *command)
    assert (code, printed) == (2, "")
    assert err.startswith("layoutner: error: ")
    assert "Traceback" not in err
    assert list(out.parent.iterdir()) == []
    code, _, err = call(capsys, *command, "--data.bad_pages", "skip")
    assert code == 0
    assert all(line.startswith("left out: ") for line in err.splitlines())
    code, _, _ = call(capsys, "data", "check", out, "--data.format", "jsonl")
    assert code == 0
