"""Which files of a folder are read, in every format that lists a folder."""

import json
from pathlib import Path

import pytest
from PIL import Image

from layoutner.documents.roles import read_documents
from layoutner.files.text import visible_files
from layoutner.inference.input import guess_format
from layoutner.pages.page import Page, Problem, ReadStats
from layoutner.readers import READERS
from layoutner.settings.data import DataSettings
from tests.builders import inputs
from tests.builders.processes import call

APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        \0\2\xff\xff"  # what macOS writes beside a file


def beside(folder: Path) -> int:
    """Write a file of macOS beside every file, as on a disk that another system formatted; how many."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    for file in files:
        file.with_name(f"._{file.name}").write_bytes(APPLE_DOUBLE)
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return len(files)


@pytest.mark.parametrize(
    ("format", "hidden"),
    [
        ("funsd", "._f.json"),
        ("cord", "._f.json"),
        ("sroie", "._f.csv"),
        ("xfund", "._zh.train.json"),
        ("jsonl", "._f.jsonl"),
    ],
)
def test_hidden_files_are_skipped_and_counted(
    format: str, hidden: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs.MAKERS[format](tmp_path)
    pages = list(READERS[format](tmp_path, "train"))
    assert all(isinstance(page, Page) for page in pages)
    assert beside(tmp_path) >= 1
    note, *again = READERS[format](tmp_path, "train")
    assert again == pages
    assert isinstance(note, Problem)
    assert not note.fatal
    assert note.what == f"1 hidden file(s) skipped, such as {hidden}"
    stats = ReadStats()
    read_documents(DataSettings(format=format), tmp_path, "train", stats)  # type: ignore[arg-type]
    assert stats.lines("train")[-1].endswith(f": 1 hidden file(s) skipped, such as {hidden}")
    code, out, _ = call(capsys, "data", "check", tmp_path, f"--data.format={format}", "--split=train")
    assert (code, "note: hidden files: 1\n" in out) == (0, True)


def test_unilm_does_not_mind_hidden_files(tmp_path: Path) -> None:
    case = inputs.unilm_input(tmp_path)
    (tmp_path / "labels.txt").write_text("S-KEY\n")
    pages = list(READERS["unilm"](case.path, "test"))
    beside(tmp_path)
    assert list(READERS["unilm"](case.path, "test")) == pages


def test_a_folder_of_scans_is_one_whatever_a_system_left_in_it(tmp_path: Path) -> None:
    for name in ("a.png", "b.JPG"):
        Image.new("L", (9, 9)).save(tmp_path / name)
    beside(tmp_path)
    for name in ("Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "__MACOSX").mkdir()
    assert guess_format(tmp_path) == "ocr"
    hidden: list[Path] = []
    assert [file.name for file in visible_files(tmp_path, (".png", ".jpg"), hidden)] == ["a.png", "b.JPG"]
    assert [file.name for file in hidden] == ["._a.png", "._b.JPG"]


def test_a_file_in_capitals_is_read_too(tmp_path: Path) -> None:
    inputs.funsd_input(tmp_path)
    file = tmp_path / "annotations" / "f.json"
    file.rename(file.with_suffix(".JSON"))
    (page,) = READERS["funsd"](tmp_path, "train")
    assert isinstance(page, Page)
    assert len(page.words) == sum(
        len(entity["words"]) for entity in json.loads(file.with_suffix(".JSON").read_text())["form"]
    )
