"""`predict` as fields and as CSV: what is written, what is refused, and that a live producer gets its answers."""

import csv
import json
import math
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from layoutner.errors import SettingsError
from layoutner.inference.prediction_format import choose_format
from tests.builders.families import make_export
from tests.builders.forks import fork
from tests.builders.pages import LABELS, lines, page
from tests.builders.processes import HANGS_S, ROOT, call


@pytest.fixture(scope="module")
def model(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model: it labels at random, and the same always."""
    return make_export(checkpoints["layoutlm"], tmp_path_factory.mktemp("models"), LABELS.tags)


@pytest.fixture
def input(tmp_path: Path) -> Path:
    """A document of three pages, and two of one page each."""
    grouped = [page(f"a-{n}", [f"w{n}-{m}" for m in range(9)], group="a") for n in range(3)]
    file = tmp_path / "in.jsonl"
    file.write_text(lines(*grouped, *(page(name, ["Total", "9.00"] * 4) for name in ("b", "c"))))
    return file


def entities(written: list[dict[str, Any]], kind: str) -> list[tuple[int, str]]:
    return [
        (number, one["text"]) for number, it in enumerate(written, 1) for one in it["entities"] if one["type"] == kind
    ]


def test_fields_are_one_line_per_document(
    model: Path, input: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    command = ["predict", input, "--model", model, "--output-format", "fields", "--output", out]
    assert call(capsys, *command) == (0, "", "")
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(one["document"], [it["name"] for it in one["pages"]]) for one in records] == [
        ("a", ["a-0", "a-1", "a-2"]),
        ("b", ["b"]),
        ("c", ["c"]),
    ]
    # The entities are those of the pages.
    assert call(capsys, "predict", input, "--model", model, "--output", tmp_path / "pages.jsonl")[0] == 0
    pages = [json.loads(line) for line in (tmp_path / "pages.jsonl").read_text().splitlines()]
    for kind in LABELS.types:
        told = [(field["page"], field["text"]) for field in records[0]["fields"][kind]]
        assert told == entities(pages[:3], kind)
    assert any(records[0]["fields"].values())
    sure = [word["probability"] for word in pages[3]["words"]]
    spans = [one["words"] for one in pages[3]["entities"] if one["type"] == "TOTAL"]
    for number, (field, (start, end)) in enumerate(zip(records[1]["fields"]["TOTAL"], spans, strict=True), 1):
        assert (field["number"], field["value"]) == (number, field["text"])
        assert [word["probability"] for word in field["words"]] == sure[start:end]
        assert field["confidence"] == pytest.approx(math.prod(sure[max(0, start - 1) : end + 1]), abs=1e-5)


def test_csv_and_its_review_list(model: Path, input: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, review = tmp_path / "out.csv", tmp_path / "review.csv"
    options = ["--normalise", "TOTAL=amount", "--min-confidence", 1, "--review", review, "--output", out]
    assert call(capsys, "predict", input, "--model", model, *options) == (0, "", "")
    with out.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == [
        *("document", "pages", "SENDER", "SENDER confidence"),
        *("TOTAL", "TOTAL text", "TOTAL confidence", "review"),
    ]
    assert [row[:2] for row in rows] == [["a", "3"], ["b", "1"], ["c", "1"]]
    with review.open(encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    confidences = [float(one["confidence"]) for one in listed]
    assert confidences == sorted(confidences)
    assert len(listed) == sum(len(row[place].split(" | ")) for row in rows for place in (3, 6) if row[place])
    assert {one["reason"] for one in listed if one["type"] == "SENDER"} <= {"confidence below 1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.csv", "review.csv"]


def test_pages_of_a_document_that_are_apart_are_an_error(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = [page(name, ["x"], group=group) for name, group in (("1", "a"), ("2", "b"), ("3", "a"))]
    (tmp_path / "in.jsonl").write_text(lines(*pages))
    options = ["--output-format", "fields", "--output", tmp_path / "out.jsonl"]
    code, out, err = call(capsys, "predict", tmp_path / "in.jsonl", "--model", model, *options)
    assert (code, out) == (2, "")
    assert "page '3' belongs to the document 'a', but other documents come in between" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]


def test_two_ranks_write_what_one_writes(model: Path, input: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--output-format", "csv", "--min-confidence", 0.5]
    for ranks in (1, 2):
        out = ["--output", tmp_path / f"{ranks}.csv", "--review", tmp_path / f"review-{ranks}.csv"]
        done = fork(["layoutner", "predict", input, *options, *out], ranks=ranks)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()
    assert (tmp_path / "review-1.csv").read_bytes() == (tmp_path / "review-2.csv").read_bytes()


# The format


@pytest.mark.parametrize(
    ("name", "given", "format"),
    [
        (None, None, "jsonl"),
        (None, "csv", "csv"),
        ("out", None, "jsonl"),
        ("out.jsonl", None, "jsonl"),
        ("out.jsonl", "fields", "fields"),
        ("OUT.CSV", None, "csv"),
        ("out.txt", None, "unilm"),
        ("out.json", "fields", "fields"),
        ("out.tsv", "csv", "csv"),
    ],
)
def test_the_ending_decides_the_format(name: str | None, given: str | None, format: str) -> None:
    assert choose_format(None if name is None else Path(name), given) == format


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("out.csv", "jsonl", "--output out.csv with --output-format jsonl: .csv is for csv"),
        ("out.jsonl", "unilm", ".jsonl is for jsonl and fields"),
        ("out.txt", "fields", ".txt is for unilm"),
        ("out.xlsx", None, r"unknown ending .xlsx; known: .jsonl \(jsonl or fields\), .csv \(csv\), .txt \(unilm\)"),
    ],
)
def test_an_ending_of_another_format_is_refused(name: str, given: str | None, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        choose_format(Path(name), given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--normalise", "TOTAL=amount"], "--normalise: only with --output-format fields or csv"),
        (["--min-confidence", "0.9", "--review", "r.csv"], "--min-confidence and --review: only with"),
        (["--output", "x.xlsx"], "unknown ending .xlsx"),
        (["--output-format", "csv", "--min-confidence", "90"], "--min-confidence 90: must be between 0 and 1"),
        (["--output-format", "csv", "--min-confidence", "nan"], "must be between 0 and 1"),
        (["--output-format", "csv", "--review", "r.xlsx"], "it is written as CSV"),
        (["--output", "r.csv", "--review", "r.csv"], "is the file of --output, too"),
        (["--output-format", "csv", "--normalise", "TOTAL=money"], "'money' is not a normaliser"),
        (["--output-format", "csv", "--normalise", "TOTALS=amount"], "no such type; did you mean 'TOTAL'"),
    ],
)
def test_a_mistake_in_the_options_is_one_message(
    options: list[str],
    message: str,
    model: Path,
    input: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, "predict", input, "--model", model, *options)
    assert (code, out, len(err.splitlines()), message in err) == (2, "", 1, True), err
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


# A live producer


def test_who_writes_a_page_and_waits_gets_its_answer(model: Path) -> None:
    command = [sys.executable, "-m", "layoutner", "predict", "-", "--model", model, "--data.bad_pages", "skip"]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT, env=environment, bufsize=0) as live:
        assert live.stdin is not None
        assert live.stdout is not None

        def ask(text: str) -> str:
            """Write, and wait for a line without writing more."""
            live.stdin.write(text.encode())  # type: ignore[union-attr]
            answer = b""
            while not answer.endswith(b"\n"):
                assert select.select([live.stdout], [], [], HANGS_S)[0], "no answer"
                part = os.read(live.stdout.fileno(), 2**16)  # type: ignore[union-attr]
                assert part, "it has ended"
                answer += part
            return answer.decode()

        try:
            assert json.loads(ask(lines(page("one", ["x"]))))["document"] == "one"
            # A page that is left out, a blank line or half a page after it are nothing to wait for.
            assert json.loads(ask(lines(page("two", ["x"]), "{", "")))["document"] == "two"
            later = lines(page("four", ["x"]))
            assert json.loads(ask(lines(page("three", ["x"])) + later[:20]))["document"] == "three"
            assert json.loads(ask(later[20:]))["document"] == "four"
            live.stdin.close()
            assert live.stdout.read() == b""
            assert live.wait(HANGS_S) == 0
        finally:
            live.kill()
