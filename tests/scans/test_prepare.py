"""`layoutner data prepare`: PDFs and images become one file of pages, the same for any number of processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from layoutner.errors import DataError, SettingsError
from layoutner.readers import read_pages
from layoutner.scans import workers
from layoutner.scans.engine import SeenWord
from layoutner.scans.inputs import document_names, find_files
from layoutner.scans.prepare import Summary, prepare
from layoutner.scans.workers import Lost, Workers
from layoutner.settings.data import DataSettings
from layoutner.settings.tree import load
from tests.builders.pdfs import Sheet, scan, text, write_pdf
from tests.builders.processes import HANGS_S, call

needs_tesseract = pytest.mark.skipif(
    shutil.which("tesseract") is None, reason="no tesseract: apt-get install tesseract-ocr"
)
MANY = b"".join(text(72, 700 - 20 * line, f"LINE {line}") for line in range(8))
NOISE = scan("Total 93.50").image


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    return tmp_path / "cache" / "layoutner" / "ocr"


def settings(**data: Any) -> DataSettings:
    return load(None, {"data": {"format": "pdf", **data}}).data


def pages_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def words_of(page: dict[str, Any]) -> list[str]:
    return [word["text"] for word in page["words"]]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with two PDFs of text, one of which has a scanned page, a scan, and a TIFF of two pages."""
    folder = tmp_path / "in"
    write_pdf(folder / "b" / "invoice.pdf", Sheet(MANY), scan("Total 93.50"))
    write_pdf(folder / "a" / "invoice.pdf", Sheet(text(72, 700, "INVOICE 4711")))
    write_pdf(folder / "c.PDF", scan("Invoice number 4711"))
    picture = Image.new("L", (600, 200), 255)
    ImageDraw.Draw(picture).text((40, 40), "First", 0, ImageFont.load_default(40))
    picture.save(folder / "d.tif", save_all=True, append_images=[picture])
    (folder / "notes.txt").write_text("no page")
    (folder / ".hidden.pdf").write_bytes(b"")
    return folder


@needs_tesseract
def test_all_kinds_of_inputs_and_what_came_from_where(inputs: Path, tmp_path: Path, own_cache: Path) -> None:
    one = prepare([inputs], tmp_path / "one.jsonl", settings(), jobs=1)
    two = prepare([inputs], tmp_path / "two.jsonl", settings(), jobs=2)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert one[:7] == (4, 6, 16 + 2 + 2 + 3 + 2, 2, 4, 0, 0)
    assert two[:7] == (4, 6, 25, 2, 4, 4, 0)
    assert one.confidence == two.confidence
    assert one.notes == (f"note: 1 hidden file(s) skipped, such as {inputs / '.hidden.pdf'}",)
    pages = pages_of(tmp_path / "one.jsonl")
    assert [(page["document"], page.get("group")) for page in pages] == [
        ("a-invoice", None),
        ("b-invoice-1", "b-invoice"),
        ("b-invoice-2", "b-invoice"),
        ("c", None),
        ("d-1", "d"),
        ("d-2", "d"),
    ]
    assert [words_of(page) for page in pages[2:]] == [
        ["Total", "93.50"],
        ["Invoice", "number", "4711"],
        ["First"],
        ["First"],
    ]
    assert pages[2]["page_size"] == [612, 792]
    assert (pages[2]["image"], pages[2]["frame"]) == ("in/b/invoice.pdf", 1)
    # The words that OCR has read on the rendered page are where they were drawn, in points.
    total = pages[2]["words"][0]
    assert total["box"][:2] == pytest.approx([120 * 72 / 200, 120 * 72 / 200], abs=6)
    assert len(list(own_cache.rglob("*.json"))) == 4
    read = list(read_pages(DataSettings(format="jsonl"), tmp_path / "one.jsonl", "test"))
    assert [page.image.frame for page in read] == [None, 0, 1, None, 0, 1]  # type: ignore[union-attr]


@needs_tesseract
def test_a_damaged_entry_of_the_cache_is_read_again(inputs: Path, tmp_path: Path, own_cache: Path) -> None:
    prepare([inputs / "c.PDF"], tmp_path / "one.jsonl", settings())
    (entry,) = own_cache.rglob("*.json")
    whole = entry.read_bytes()
    for damaged in (b"", whole[:-9], b'{"a": 1}', b"[[1, 2], [[1, 2, 3, 4]]]"):
        entry.write_bytes(damaged)
        again = prepare([inputs / "c.PDF"], tmp_path / "two.jsonl", settings())
        assert (again.by_ocr, again.cached) == (1, 0)
        assert entry.read_bytes() == whole
    shutil.copy(inputs / "c.PDF", tmp_path / "elsewhere.pdf")
    assert prepare([tmp_path / "elsewhere.pdf"], tmp_path / "three.jsonl", settings()).cached == 1
    off = load(None, {"data": {"format": "pdf"}, "ocr": {"cache": "off"}}).data
    assert prepare([inputs / "c.PDF"], tmp_path / "four.jsonl", off).cached == 0
    assert prepare([inputs / "c.PDF"], tmp_path / "five.jsonl", settings(format="ocr")).cached == 1


def test_a_text_layer_of_no_use_is_read_by_ocr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of a stand-in for an engine show which pages were read by it."""
    from layoutner.scans import reader

    class Engine:
        name, version = "stand-in", "1"

        def read(self, picture: Image.Image) -> list[SeenWord]:
            return [SeenWord("OCR", (0, 0, 10, 10), 0, 1.0)]

    monkeypatch.setattr(reader, "open_engine", lambda _: Engine())
    behind = Sheet(scan("x").content + text(72, 20, "PAGE 1"), image=NOISE)
    searchable = Sheet(MANY + scan("x").content, image=NOISE)
    unknown = Sheet(MANY.replace(b"/F1", b"/F2"), unicode=dict.fromkeys(range(32, 127), "e000"))
    sheets = (Sheet(MANY), Sheet(b""), behind, searchable, unknown, Sheet(b"100 100 50 50 re f"))
    file = write_pdf(tmp_path / "a.pdf", *sheets)
    pages = list(read_pages(settings(), file, "test"))
    by_ocr = [[word.text for word in page.words] == ["OCR"] for page in pages]  # type: ignore[union-attr]
    assert by_ocr == [False, False, True, False, True, True]
    assert [len(page.words) for page in pages] == [16, 0, 1, 16, 1, 1]  # type: ignore[union-attr]


def test_pages_that_cannot_be_read_are_listed_or_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    write_pdf(folder / "a.pdf", Sheet(MANY))
    write_pdf(folder / "b.pdf", Sheet(MANY), password="secret")
    (folder / "c.pdf").write_bytes(b"%PDF-1.4\nnothing")
    (folder / "d.png").write_bytes(b"no image")
    out = tmp_path / "out" / "pages.jsonl"
    code, printed, err = call(capsys, "data", "prepare", folder, "--out", out, "--images", out.parent / "im")
    assert (code, printed) == (2, "")
    assert err.count("\n  - ") == 3
    for said in ("b.pdf: is encrypted", "c.pdf: is damaged", "d.png: page image", "--data.bad_pages skip"):
        assert said in err
    assert list(out.parent.iterdir()) == []
    code, printed, err = call(capsys, "data", "prepare", folder, "--out", out, "--data.bad_pages", "skip")
    assert code == 0
    assert err.count("left out: ") == 3
    assert "4 files, 1 pages, 16 words" in printed
    assert [page["document"] for page in pages_of(out)] == ["a"]


def test_pictures_of_pages(tmp_path: Path) -> None:
    write_pdf(tmp_path / "elsewhere" / "a.pdf", Sheet(MANY), Sheet(MANY, rotate=90))
    out = tmp_path / "out" / "pages.jsonl"
    prepare([tmp_path / "elsewhere"], out, settings(), out.parent / "images")
    pages = pages_of(out)
    assert [page["image"] for page in pages] == ["images/a/1.png", "images/a/2.png"]
    sizes = []
    for page in pages:
        with Image.open(out.parent / page["image"]) as picture:
            sizes.append(picture.size)
    assert sizes == [(1700, 2200), (2200, 1700)]
    with pytest.raises(SettingsError, match="exists; remove it"):
        prepare([tmp_path / "elsewhere"], out, settings(), out.parent / "images")
    with pytest.raises(SettingsError, match="must be a folder below"):
        prepare([tmp_path / "elsewhere"], out, settings(), tmp_path / "images")
    prepare([tmp_path / "elsewhere"], out, settings())
    assert all("image" not in page for page in pages_of(out))  # it lies elsewhere


def test_inputs_are_found_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("b/z.pdf", "b/a.png", "a.pdf", "c/deep/x.tif", "c/y.PNG")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)

    def found(*given: str) -> list[str]:
        return [str(file) for file in find_files(given, [])]

    assert found("c", "b", "a.pdf") == ["c/deep/x.tif", "c/y.PNG", "b/a.png", "b/z.pdf", "a.pdf"]
    assert found("*/*.p*", "a.pdf") == ["b/a.png", "b/z.pdf", "a.pdf"]
    assert found("b/z.pdf", "b", str(tmp_path / "b")) == ["b/z.pdf", "b/a.png"]
    assert found("**/*.tif") == ["c/deep/x.tif"]
    for wrong in ("nothing", "*.gif"):
        with pytest.raises(DataError):
            found(wrong)


def test_names_of_documents_are_unlike() -> None:
    files = [Path(name) for name in ("x/a/i.pdf", "x/b/i.pdf", "x/b/j.pdf", "x/b/j.png", "x/k.pdf", "x/b-i.pdf")]
    names = document_names(files)
    assert len(set(names)) == 6
    assert names[0] == "a-i"
    assert names[2:5] == ["b-j.pdf", "b-j.png", "k"]
    assert document_names([Path("a.pdf")]) == ["a"]


def _work(place: str) -> Callable[[str], str]:
    def work(task: str) -> str:
        if task == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        if task == "hang":
            subprocess.run(["sleep", "1000"], check=False)
        if task == "refuse":
            raise DataError("refused")
        if task == "bug":
            raise ValueError("a bug")
        Path(place, f"{task}.{os.getpid()}").touch()
        return task.upper()

    return work


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_process_that_dies_or_hangs_costs_one_page(
    tmp_path: Path, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "LONGEST_TASK_S", 3.0)
    with Workers[str, str](jobs, _work, str(tmp_path)) as some:
        answers = list(some.run(["a", "die", "b", "hang", "c", "d"]))
    assert [answer for answer in answers if not isinstance(answer, Lost)] == ["A", "B", "C", "D"]
    assert answers[1] == Lost("the process that read it has died (signal SIGSEGV)")
    assert answers[3] == Lost("reading it took more than 3 s, and was stopped")
    for task, error in (("refuse", DataError), ("bug", RuntimeError)):
        with Workers[str, str](jobs, _work, str(tmp_path)) as some, pytest.raises(error, match="refused|a bug"):
            list(some.run(["a", task]))


@needs_tesseract
def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    for number in range(30):
        write_pdf(tmp_path / "in" / f"{number}.pdf", scan(f"Page {number}"))
    command = [sys.executable, "-m", "layoutner", "data", "prepare", "in", "--out", "out/pages.jsonl", "--jobs", "2"]
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        end = time.monotonic() + HANGS_S
        while not list((tmp_path / "cache").rglob("*.json")) and time.monotonic() < end:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=HANGS_S)
    assert running.returncode == 130
    assert "Traceback" not in err
    assert list((tmp_path / "out").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_summary_says_what_came_from_where() -> None:
    text = str(Summary(6, 8, 470, 6, 2, 1, 0, 0.951, (), ()))
    assert text.splitlines()[:3] == [
        "6 files, 8 pages, 470 words",
        "  by text layer: 6",
        "  by OCR:        2, of these 1 from the cache, mean confidence 0.95",
    ]
