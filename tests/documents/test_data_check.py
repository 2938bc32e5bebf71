"""`layoutner data check`: what it counts, what it finds, and how it ends."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from layoutner.documents.roles import read_documents
from layoutner.pages.page import Page, Problem, ReadStats
from layoutner.readers import READERS
from layoutner.settings.data import DataSettings
from tests.builders.processes import call


def word(
    text: str, label: str | None = "O", box: tuple[float, float, float, float] = (10, 10, 20, 20)
) -> dict[str, Any]:
    return {"text": text, "box": box, "label": label}


def write(file: Path, pages: dict[str, list[dict[str, Any]]]) -> Path:
    lines = [
        json.dumps({"document": name, "page_size": [100, 100], "unit": "pixels", "words": words})
        for name, words in pages.items()
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_clean_forms_are_counted(capsys: pytest.CaptureFixture[str], forms: Path, checkpoints: dict[str, Path]) -> None:
    code, out, _ = call(capsys, "data", "check", forms)
    assert code == 0
    assert "windows" not in out
    assert out.endswith("0 problem(s) that stop a run, 0 worth a look\n")
    model = ["--model", checkpoints["layoutlm"], "--data.max_length=32", "--data.stride=8"]
    code, out, _ = call(capsys, "data", "check", forms, "--format=json", *model)
    report = json.loads(out)
    assert (code, report["fatal"], report["duplicates"], report["problems"]) == (0, 0, [], [])
    assert {role: split["documents"] for role, split in report["splits"].items()} == {"train": 24, "test": 8}
    annotations = [json.loads(file.read_text()) for file in (forms / "training_data" / "annotations").iterdir()]
    entities = [entity for form in annotations for entity in form["form"]]
    train = report["splits"]["train"]
    assert train["words"] == sum(len(entity["words"]) for entity in entities)
    totals = [entity for entity in entities if entity["label"].lower() == "total"]
    assert train["entities"]["TOTAL"] == len(totals) == 24
    assert train["windows"] > 24
    assert train["tokens"] > train["words"] + 2 * train["windows"]


def test_every_problem_is_listed_by_file_and_word(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = write(
        tmp_path / "train.jsonl",
        {
            "off": [word("far", box=(90, 90, 120, 95))],
            "turned": [word("left", box=(20, 10, 10, 20)), word("  ")],
            "illegal": [word("a", "B-X"), word("b", "I-Y")],
            "malformed": [word("c", "X")],
            "half": [word("d", "B-X"), word("e", None)],
        },
    )
    with broken.open("a") as file:
        file.write('{"document": "cut", "page_s')
    write(tmp_path / "test.jsonl", {"strange": [word("f", "B-Z")]})
    code, out, err = call(capsys, "data", "check", tmp_path, "--data.format=jsonl")
    assert (code, err) == (1, "")
    for line in (
        "error: box off the page: 1",
        "  train: train.jsonl line 1: word 0 'far': box [900, 900, 1200, 950] leaves the page (0..1000)",
        "error: inverted box: 1",
        "  train: train.jsonl line 2: word 0 'left': box [200, 100, 100, 200] is inverted",
        "note: illegal tag sequence: 1",
        "  train: train.jsonl line 3: word 1 'b': label I-Y after B-X: read as the start of an entity",
        "error: malformed label: 1",
        "  train: train.jsonl line 4: word 0 'c': label 'X' is neither O nor",
        "error: labels incomplete: 1",
        "error: unreadable: 1",
        "  train: train.jsonl line 6: not JSON",
        "error: unknown label: 1",
        "  test: test.jsonl line 1: word 0 'f': label B-Z is not one of X, Y",
        "train: 1 blank word(s) dropped",
        "6 problem(s) that stop a run, 1 worth a look",
    ):
        assert f"\n{line}" in out
    code, out, _ = call(capsys, "data", "check", tmp_path, "--data.format=jsonl", "--format=json")
    report = json.loads(out)
    assert (code, report["fatal"], len(report["problems"])) == (1, 6, 7)
    assert (report["splits"]["train"]["documents"], report["splits"]["train"]["unusable"]) == (1, 5)
    far = next(problem for problem in report["problems"] if problem["kind"] == "box off the page")
    assert (far["role"], far["source"], far["word"], far["text"]) == ("train", "train.jsonl line 1", 0, "far")


def test_fix_counts_what_it_repairs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.jsonl",
        {
            "a": [word("far", box=(90, 90, 120, 95)), word("near")],
            "b": [word("left", box=(20, 10, 10, 20)), word("b")],
        },
    )
    code, out, _ = call(capsys, "data", "check", file, "--data.format=jsonl", "--data.invalid_boxes", "clamp")
    assert code == 0
    assert "all: 1 box(es) clamped, box off the page (data.invalid_boxes = clamp)\n" in out
    assert "all: 1 box(es) clamped, inverted box (data.invalid_boxes = clamp)\n" in out
    code, out, _ = call(
        capsys, "data", "check", file, "--data.format=jsonl", "--data.invalid_boxes=drop", "--format=json"
    )
    assert code == 0
    assert json.loads(out)["splits"]["all"]["words"] == 2
    assert sum(json.loads(out)["splits"]["all"]["repaired"].values()) == 2


def test_labels_are_held_against_a_list(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", {"a": [word("x", "B-TOTAL"), word("y", "B-DATE")]})
    (tmp_path / "labels.txt").write_text("O\nB-TOTAL\nI-TOTAL\n")
    assert call(capsys, "data", "check", file, "--data.format=jsonl")[0] == 0
    code, out, _ = call(capsys, "data", "check", file, "--data.format=jsonl", "--data.labels", tmp_path / "labels.txt")
    assert code == 1
    assert "all: a.jsonl line 1: word 1 'y': label B-DATE is not one of TOTAL\n" in out
    code, _, err = call(capsys, "data", "check", file, "--data.format=jsonl", "--data.labels", tmp_path / "none.txt")
    assert code == 2
    assert "none.txt: cannot be read" in err


def test_pages_that_are_there_twice_come_with_their_split(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    long = [word(f"word{letter}{letter}") for letter in "abcdefghijklmnopqrstuvwxyz"]
    short = [word("PAID")]
    write(tmp_path / "train.jsonl", {"a": long, "b": short, "c": short})
    write(tmp_path / "test.jsonl", {"d": [*long, word("stamp")]})
    code, out, _ = call(capsys, "data", "check", tmp_path, "--data.format=jsonl")
    assert code == 0
    assert "note: duplicate pages: 2 pair(s), 1 across splits\n" in out
    across = "  train train.jsonl line 1 and test test.jsonl line 1: near-identical\n"
    inside = "  train train.jsonl line 2 and train train.jsonl line 3: identical\n"
    assert across + inside in out
    code, out, _ = call(capsys, "data", "check", tmp_path, "--data.format=jsonl", "--split=test")
    assert code == 0
    assert "twice" not in out
    assert "train" not in out


def test_the_first_of_many_problems_are_shown_and_all_on_demand(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = write(tmp_path / "a.jsonl", {str(n): [word(f"w{n}", "X")] for n in range(14)})
    code, out, _ = call(capsys, "data", "check", file, "--data.format=jsonl")
    assert code == 1
    assert out.count("is neither O nor") == 10
    assert "  ... and 4 more (--all shows them)\n" in out
    _, out, _ = call(capsys, "data", "check", file, "--data.format=jsonl", "--all")
    assert out.count("is neither O nor") == 14
    assert "more (" not in out


def test_a_folder_without_splits_is_read_once(capsys: pytest.CaptureFixture[str], forms: Path) -> None:
    code, out, _ = call(capsys, "data", "check", forms / "testing_data", "--format=json")
    assert code == 0
    report = json.loads(out)
    assert {role: split["documents"] for role, split in report["splits"].items()} == {"all": 8}
    assert report["duplicates"] == []


def test_a_truncated_form_and_a_broken_image_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for kind in ("annotations", "images"):
        (tmp_path / kind).mkdir()
    for name in "abc":
        (tmp_path / "annotations" / f"{name}.json").write_text('{"form": []}')
        Image.new("L", (50, 50)).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "annotations" / "a.json").write_text('{"form": [')
    (tmp_path / "images" / "b.png").write_bytes(b"\x89PNG")
    code, out, _ = call(capsys, "data", "check", tmp_path)
    assert code == 1
    assert "error: unreadable: 2\n  all: a.json:" in out
    assert "  all: b.json: page image" in out


def test_a_split_whose_files_are_incomplete_is_a_problem_of_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("x\tB-A\n")
        (tmp_path / f"{split}_box.txt").write_text("x\t0 0 1 1\n")
        (tmp_path / f"{split}_image.txt").write_text("x\t0 0 1 1\t10 10\tp.png\n")
    assert call(capsys, "data", "check", tmp_path, "--data.format=unilm")[0] == 0
    (tmp_path / "test_box.txt").unlink()
    code, out, _ = call(capsys, "data", "check", tmp_path, "--data.format=unilm")
    assert code == 1
    assert "test_box.txt" in out
    (tmp_path / "train_box.txt").unlink()
    assert call(capsys, "data", "check", tmp_path, "--data.format=unilm")[0] == 2  # nothing left to look at


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["."], "not a FUNSD folder"),
        ([".", "--data.format=jsonl"], "holds no .jsonl file"),
        ([".", "--data.invalid_boxes=mend"], "data.invalid_boxes = 'mend': input should be 'none', 'clamp' or 'drop'"),
        ([".", "--data.format=docx"], "data.format = 'docx': input should be 'funsd', "),
        ([".", "--data.stride=x"], "data.stride = 'x'"),
        ([".", "--model=nothing/here"], "model.name_or_path = nothing/here: cannot be opened"),
        ([".", "--fxi=clamp"], "unknown argument --fxi=clamp"),
        ([".", "--data.folds=3"], "--data.folds=3: `layoutner data check` does not take it"),
        (["sub/empty.jsonl", "--data.format=jsonl"], "empty.jsonl: holds no document"),
    ],
)
def test_what_cannot_be_looked_at_exits_with_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "empty.jsonl").touch()
    code, out, err = call(capsys, "data", "check", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("layoutner: error: ")
    assert message in err


def test_segment_boxes_where_there_are_no_segments(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = {"document": "a", "page_size": [9, 9], "words": [{"text": "x", "box": [0, 0, 9, 9]}]}
    (tmp_path / "f.jsonl").write_text(json.dumps(page))
    arguments = (tmp_path / "f.jsonl", "--data.format=jsonl", "--data.box_level")
    assert call(capsys, "data", "check", *arguments, "word")[0] == 0
    code, out, _ = call(capsys, "data", "check", *arguments, "segment")
    assert (code, "f.jsonl line 1: data.box_level = segment needs lines or fields" in out) == (1, True)


def test_no_torch_unless_a_model_is_named(forms: Path) -> None:
    code = (
        "import sys; from layoutner.cli import main\n"
        "main(['data', 'check', sys.argv[1]])\n"
        "print([name for name in ('torch', 'transformers', 'deepspeed', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(forms)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_sroie_and_cord_as_published(capsys: pytest.CaptureFixture[str], real_data: Path) -> None:
    code, out, _ = call(
        capsys, "data", "check", real_data / "sroie2019" / "train", "--data.format=sroie", "--format=json"
    )
    report = json.loads(out)
    assert (code, report["splits"]["all"]["documents"], len(report["duplicates"])) == (0, 626, 7)
    not_given = [problem["what"] for problem in report["problems"] if problem["kind"] == "value not given"]
    assert sorted(not_given) == ["address is missing or empty", "total is missing or empty"]
    code, out, _ = call(capsys, "data", "check", real_data / "cord_v1", "--data.format=cord", "--format=json")
    report = json.loads(out)
    assert (code, report["splits"]["all"]["documents"], report["splits"]["all"]["unusable"]) == (1, 594, 6)
    assert {problem["kind"] for problem in report["problems"]} == {"box off the page"}
    code, out, _ = call(
        capsys,
        "data",
        "check",
        real_data / "cord_v1",
        "--data.format=cord",
        "--format=json",
        "--data.invalid_boxes=clamp",
    )
    assert (code, json.loads(out)["splits"]["all"]["documents"]) == (0, 600)


def test_a_note_of_a_reader_is_no_page(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonl_reader = READERS["jsonl"]

    def with_note(path: Path, role: str) -> Iterator[Page | Problem]:
        yield Problem("folder", "hidden", "2 files left out", fatal=False)
        yield from jsonl_reader(path, role)

    monkeypatch.setitem(READERS, "jsonl", with_note)
    file = write(tmp_path / "train.jsonl", {"one": [word("a", "B-X")]})
    code, out, _ = call(capsys, "data", "check", file, "--data.format=jsonl", "--format=json")
    report = json.loads(out)
    assert (code, report["fatal"]) == (0, 0)
    assert (report["splits"]["all"]["documents"], report["splits"]["all"]["unusable"]) == (1, 0)
    assert [(problem["kind"], problem["fatal"]) for problem in report["problems"]] == [("hidden", False)]
    stats = ReadStats()
    settings = DataSettings(format="jsonl", bad_pages="skip")
    assert len(read_documents(settings, file, "train", stats)) == 1
    assert (stats.skipped, stats.lines("train")) == (0, ["train: note: folder: 2 files left out"])
    # A note alone does not make an empty file one that holds something.
    file.write_text("")
    code, _, err = call(capsys, "data", "check", file, "--data.format=jsonl")
    assert (code, "holds no document" in err) == (2, True)
