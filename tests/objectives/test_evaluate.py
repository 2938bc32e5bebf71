"""`layoutner evaluate`: scores of a model or of every checkpoint of a run, and what is said beside them."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from layoutner.cli.inference import _table
from layoutner.documents.roles import read_documents
from layoutner.pages.labels import LabelSet, rewrite, to_spans
from layoutner.settings.data import DataSettings
from tests.builders.checkpoints import checkpoint
from tests.builders.families import make_export
from tests.builders.pages import LABELS, lines, page
from tests.builders.processes import call
from tests.builders.scores import score_tags


@pytest.fixture(scope="module")
def model(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_export(checkpoints["layoutlm"], tmp_path_factory.mktemp("models"), LABELS.tags)


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """One that can be scored, and one that cannot be read."""
    good = page("a", ["x"])
    good["words"][0]["label"] = "O"
    (tmp_path / "in.jsonl").write_text(lines(good, "{"))
    return tmp_path / "in.jsonl"


def test_what_is_left_out_is_said(model: Path, pages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", pages, "--model", model, "--data.bad_pages", "skip"]
    code, out, err = call(capsys, *command)
    assert (code, json.loads(out)["counts"]["documents"]) == (0, 1)
    assert "input: 1 page(s) left out (data.bad_pages = skip)" in err
    code, out, _ = call(capsys, *command, "--output", tmp_path / "scores.json")
    assert (code, "f1" in out.lower()) == (0, True)


def test_scores_of_all_checkpoints_are_all_of_standard_output(
    model: Path, pages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, apart = tmp_path / "run", ("layoutner.json", "model.safetensors")
    shutil.copytree(model, run / "model", ignore=shutil.ignore_patterns(*apart))
    shutil.copy(model / "layoutner.json", run)
    for step in (2, 10):
        checkpoint(run, step, weights=load_file(model / "model.safetensors"))
    code, out, err = call(capsys, "evaluate", pages, "--checkpoints", run, "--data.bad_pages", "skip")
    assert (code, list(json.loads(out))) == (0, ["2", "10"])
    assert "best F1 at step 2;" in err


def test_the_table_names_the_best_step() -> None:
    found = {
        step: (score_tags([["B-A"]], [[tag]], LabelSet("BIO", ("A",))), {})
        for step, tag in (("2", "O"), ("4", "B-A"), ("6", "O"))
    }
    assert "best F1 at step 4;" in _table(found, "test")


def test_standard_input_is_not_read_once_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "evaluate", "-", "--checkpoints", tmp_path)
    assert (code, "standard input can be read only once; give a file" in err) == (2, True)


def test_what_predict_writes_scores_as_evaluate_says(
    model: Path, forms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The words of the small forms, with labels that the untrained model knows, seldom right.
    documents = read_documents(DataSettings(), forms, "test")
    pages = [page(one.name, list(one.words)) for one in documents]
    for one in pages:
        for index, word in enumerate(one["words"]):
            word["label"] = ("B-TOTAL", "O", "B-SENDER", "I-SENDER", "O", "O")[index % 6]
    (tmp_path / "in.jsonl").write_text(lines(*pages))
    code, out, _ = call(capsys, "evaluate", tmp_path / "in.jsonl", "--model", model)
    scores = json.loads(out)
    code_too, out, _ = call(capsys, "predict", tmp_path / "in.jsonl", "--model", model)
    made = {one["document"]: one for one in map(json.loads, out.splitlines())}
    assert (code, code_too, len(made)) == (0, 0, len(pages))
    delivered = {(name, one["type"], *one["words"]) for name, found in made.items() for one in found["entities"]}
    wanted = {(one["document"], *span) for one in pages for span in to_spans([word["label"] for word in one["words"]])}
    assert scores["counts"]["predicted_entities"] == len(delivered) > 100
    assert scores["counts"]["entities"] == len(wanted)
    right = len(wanted & delivered)
    assert right > 5
    assert (scores["precision"], scores["recall"]) == pytest.approx((right / len(delivered), right / len(wanted)))
    assert scores["f1"] == pytest.approx(2 * right / (len(delivered) + len(wanted)))
    # As old-style text, too: the labels of the words are these very entities.
    for one in made.values():
        tags = [word["label"] for word in one["words"]]
        assert rewrite(tags, "BIO") == tags
        assert [list(span) for span in to_spans(tags)] == [
            [entity["type"], *entity["words"]] for entity in one["entities"]
        ]
