"""`layoutner report` and `evaluate --report`: what the page says, and that it holds all that it needs."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from layoutner.documents.roles import read_documents
from layoutner.objectives.errors import Errors
from layoutner.objectives.metrics import Scores
from layoutner.pages.labels import LabelSet, labels_of
from layoutner.settings.data import DataSettings
from tests.builders.errors import errors_of, tagged_page
from tests.builders.families import make_export
from tests.builders.processes import call
from tests.builders.run_folder import HOSTILE, hostile_run, run_folder
from tests.builders.scores import score_tags

LABELS = LabelSet("BIO", ("DATE", "TOTAL"))
TRUTH = ["B-DATE", "O", "B-TOTAL", "I-TOTAL", "O"]
PREDICTED = ["B-TOTAL", "O", "B-TOTAL", "O", "B-DATE"]
ROWS: list[dict[str, float | None]] = [
    {"step": step, "train/loss": 1 / step, "train/progress": step / 3, "eval/f1": step / 4} for step in (1, 2, 3)
]


class Page(HTMLParser):
    """The text of a page, its tables, and what its tags refer to."""

    VOID = ("meta", "input", "br", "link", "img")

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.text, self.open, self.references, self.tags = "", [], [], []  # type: ignore[var-annotated]
        self.rows: list[list[str]] = []
        self.feed(file.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href", "action")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open or "script" in self.open:
            return
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def scores_of(*pages: tuple[list[str], list[str]]) -> Scores:
    return score_tags([truth for truth, _ in pages], [predicted for _, predicted in pages], LABELS)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    Image.new("RGB", (1200, 1600), "white").save(tmp_path / "page.png")
    words = ["1 May", "pay", "12", "EUR", "thanks"]
    wrong = tagged_page("bad page", words, TRUTH, tmp_path / "page.png")
    right = tagged_page("good page", words, TRUTH)
    errors = errors_of([(wrong, PREDICTED), (right, TRUTH)], LABELS)
    return run_folder(tmp_path / "run", ROWS, scores_of((TRUTH, PREDICTED), (TRUTH, TRUTH)), errors)


def report(capsys: pytest.CaptureFixture[str], *arguments: object) -> Page:
    out = Path(str(arguments[-1]))
    code, said, err = call(capsys, "report", *arguments[:-1], "-o", out)
    assert (code, said, err) == (0, f"written to {out}\n", "")
    return Page(out)


def test_the_page_of_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = report(capsys, run, tmp_path / "new" / "report.html")
    assert ["step", "3 of 3"] in page.rows
    # Two of four entities are right, of five predicted.
    assert ["DATE", "0.5000", "0.5000", "0.5000", "2"] in page.rows
    assert ["TOTAL", "0.3333", "0.5000", "0.4000", "2"] in page.rows
    kinds = ["type", "correct", "wrong boundary", "wrong type", "missed", "spurious"]
    assert page.rows[page.rows.index(kinds) : page.rows.index(kinds) + 3] == [
        kinds,
        ["DATE", "1", "0", "1", "0", "1"],
        ["TOTAL", "1", "1", "0", "0", "0"],
    ]
    confusion = page.rows.index(["", "O", "DATE", "TOTAL"])
    assert page.rows[confusion + 1 : confusion + 4] == [
        ["O", "3", "1", "0"],
        ["DATE", "0", "1", "1"],
        ["TOTAL", "1", "0", "3"],
    ]
    text = " ".join(page.text.split())
    assert "F1 0.4444" in text
    assert "The checkpoint of step 2, chosen by eval f1." in text
    assert "expected calibration error 0.0500" in text  # 7 of 10 words are right, at 0.75
    assert "bad page" in text
    assert "good page" not in text
    for said in (
        "wrong type: DATE read as TOTAL 1 May 0.75",
        "wrong boundary: TOTAL 12 EUR / predicted: 12 0.75",
        "spurious: DATE thanks 0.75",
    ):
        assert said in text
    assert [name for name in ("train/loss", "eval/f1", "eval/loss") if name in text] == ["train/loss", "eval/f1"]
    assert "output_dir" in text  # the settings, to unfold


def test_the_page_needs_nothing_else(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = report(capsys, run, tmp_path / "report.html")
    assert page.references
    assert all(reference.startswith(("data:image/webp;base64,", "#")) for reference in page.references)
    assert sum(reference.startswith("data:") for reference in page.references) == 1
    text = (tmp_path / "report.html").read_text()
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.search(r"@import|url\((?!#)", text)
    assert {"link", "img", "iframe", "object", "embed"}.isdisjoint(page.tags)


def test_runs_side_by_side(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = run_folder(tmp_path / "other", ROWS[:2], lr="0.125")
    page = report(capsys, run, other, tmp_path / "report.html")
    assert ["", str(run), str(other)] in page.rows
    assert ["optimizer.lr", "5e-05", "0.125"] in page.rows
    assert ["eval/f1", "0.7500", "0.5000"] in page.rows


def test_texts_of_documents_are_shown_and_never_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = report(capsys, hostile_run(tmp_path / "<b>run"), tmp_path / "report.html")
    assert page.tags.count("script") == 1
    assert {"img", "b"} & set(page.tags) <= {"b"}
    for text in (*HOSTILE[:4], str(tmp_path / "<b>run")):
        assert text in page.text
    assert "1337" not in page.text
    assert "\x00" not in page.text


def test_a_page_whose_image_is_gone_shows_its_words(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.png").unlink()
    page = report(capsys, run, tmp_path / "report.html")
    assert page.tags.count("image") == 0
    assert f"page image {tmp_path / 'page.png'}" in page.text
    assert "thanks" in page.text


def test_fewer_pages_and_none(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "article" in report(capsys, run, tmp_path / "one.html").tags
    assert "article" not in report(capsys, run, "--pages", 0, tmp_path / "none.html").tags


def test_a_run_that_is_not_scored_and_one_of_an_older_layoutner(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    young = report(capsys, run_folder(tmp_path / "young", []), tmp_path / "young.html")
    assert ["step", "0 of ?"] in young.rows
    (run / "errors.json").unlink()
    assert "scored by an older layoutner" in report(capsys, run, tmp_path / "old.html").text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing", "-o", "report.html"], "missing: no run, or one that still prepares its first step"),
        (["run", "-o", "."], "--output .: is a folder; name a file in it"),
        (["run", "-o", "page.png/report.html"], "page.png/report.html: cannot be written"),
        (["run", "-o", "report.html", "--pages", "-1"], "--pages -1: give 0 or more"),
        (["run"], "the following arguments are required: -o/--output"),
    ],
)
def test_mistakes_are_said(
    arguments: list[str],
    message: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    code, out, err = call(capsys, "report", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert sorted(tmp_path.iterdir()) == before


def test_damaged_files_are_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "errors.json").write_text('{"split": "te')
    code, _, err = call(capsys, "report", run, "-o", tmp_path / "report.html")
    assert code == 2
    assert f"{run}: its scores cannot be read" in err
    assert not (tmp_path / "report.html").exists()
    (run / "errors.json").write_text(json.dumps({"format_version": 9}))
    assert "upgrade layoutner" in call(capsys, "report", run, "-o", tmp_path / "report.html")[2]


def test_evaluate_reports_what_it_scored(
    forms: Path, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    documents = read_documents(DataSettings(), forms, "test", labels="require")
    model = make_export(checkpoints["layoutlm"], tmp_path, labels_of(documents, "BIO").tags)
    capsys.readouterr()  # what transformers prints as it writes the model
    arguments = ["evaluate", forms, "--model", model, "--output", tmp_path / "scores.json", "--report", out]
    code, _, err = call(capsys, *arguments)
    assert (code, err) == (0, "")
    scores = json.loads((tmp_path / "scores.json").read_text())
    page = Page(out)
    kinds = page.rows.index(["type", "correct", "wrong boundary", "wrong type", "missed", "spurious"])
    counts = [list(map(int, row[1:])) for row in page.rows[kinds + 1 : kinds + 1 + len(scores["by_entity"])]]
    assert sum(map(sum, (row[:4] for row in counts))) == scores["counts"]["entities"]
    assert sum(map(sum, counts)) - sum(row[3] for row in counts) == scores["counts"]["predicted_entities"]


def test_one_model_is_reported(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.html"
    code, _, err = call(capsys, "evaluate", "forms", "--checkpoints", run, "--report", out)
    assert code == 2
    assert "--report shows the errors of one model: give --model FOLDER" in err
    assert Errors.read(run / "errors.json").documents == 2
    code, _, err = call(capsys, "evaluate", "forms", "--model", run, "--report", tmp_path)
    assert (code, err) == (2, f"layoutner: error: --report {tmp_path}: is a folder; name a file in it\n")
