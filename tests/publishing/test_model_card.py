"""The model card of an export: what it says, what it hides, and its examples, which run."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoConfig

from layoutner import Document, load_model
from layoutner.inference.export import export
from layoutner.models.families import FAMILIES
from layoutner.models.loading import open_tokenizer
from layoutner.models.preprocessing import Preprocessing
from layoutner.pages.labels import to_spans
from layoutner.publishing.model_card import BOXED, model_card, transformers_example
from layoutner.training.checkpoint import Identity
from layoutner.training.checkpoint_files import checkpoint_path
from tests.builders import checkpoints as builder
from tests.builders import jsonl
from tests.builders.families import make_export
from tests.builders.processes import call

TYPES = ("a|b", "<script>x</script>", "up\ndown", "*bold*_", "[x](http://y)", "plain")
SCORES: dict[str, Any] = {
    "format_version": 1,
    "precision": 0.8,
    "recall": 0.75,
    "f1": 0.77419,
    "f1_interval": 0.0213,
    "by_entity": {kind: {"precision": 0.5, "recall": 1.0, "f1": 0.6667, "entities": 3} for kind in TYPES},
    "loss": 0.4,
    "counts": {"documents": 7, "windows": 8, "words": 90, "entities": 18, "documents_trained_on": 2},
    "scheme": "BIO",
    "split": "test",
    "box_level": "word",
    "checkpoint": {"step": 2, "by": "eval f1"},
}
SETTINGS = {
    "model": {"name_or_path": "/home/anna/models/start", "dropout": None},
    "data": {"train": "/home/anna/forms", "test": "/home/anna/held-out", "eval": 0.1, "ignore_types": ["OTHER"]},
    "optimizer": {"name": "lamb", "lr": 0.25},
    "schedule": {"epochs": None, "max_steps": 2},
    "run": {"seed": 7, "output_dir": "/home/anna/runs/x", "resume": "/home/anna/runs/y"},
    "wandb": {"entity": "anna-team", "project": "secret project"},
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with two checkpoints, the second of which is the best and has scores."""
    folder = tmp_path / "my_run"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    Preprocessing(
        family="layoutlm",
        scheme="BIO",
        labels=("O", *(f"{prefix}-{kind}" for kind in TYPES for prefix in "BI")),
        max_length=64,
        stride=8,
        box_level="word",
        images="ignore",
        origin={"base_model": None, "pages": 20, "words": 400, "windows": 31},
    ).write(folder / "layoutner.json")
    monkeypatch.setattr(builder, "IDENTITY", Identity(must_match={}, settings=SETTINGS, world_size=2))
    for step in (1, 2):
        builder.checkpoint(folder, step, best=2)
    (folder / "training_pages.txt").write_text("0000000000000005\nffffffffffffffff\n")
    versions = dict.fromkeys(("torch", "deepspeed", "transformers", "tokenizers"), "1.2")
    environment = {"layoutner": "0.9", "python": "3.12.1", "versions": versions, "platform": "of-this-machine"}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "scores.json").write_text(json.dumps(SCORES))
    return folder


def test_a_card_says_what_the_model_is(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "token-classification")
    assert data["tags"] == ["layoutner", "layoutlm"]
    assert not data.keys() & {"license", "base_model", "model_name"}
    assert card.data.model_name == "my_run"
    results = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert results == {"f1": 0.77419, "precision": 0.8, "recall": 0.75}
    assert {one.dataset_name for one in card.data.eval_results} == {"held-out, test"}
    for said in (
        "with 6 entity types: ",
        "Its 13 tags are in the scheme BIO.",
        'a box for each word: `pipeline("token-classification")` passes none and would predict without them',
        "F1 0.7742 ± 0.0213 (95% interval, over pages) on the split test: 7 pages, 90 words.",
        "**The model was trained on 2 of these pages, which inflates the score.**",
        "2 optimizer steps from start, the best so far",
        "Training data: 20 pages, 400 words, 31 windows of at most 64 sub-words.",
        "2 different pages",
        # printf '0000000000000005\nffffffffffffffff\n' | sha256sum
        "`22dbf084ac2bc1ae`",
        "Versions: layoutner 0.9, Python 3.12.1, torch 1.2, deepspeed 1.2,",
        "The licences of the model that training started from and of the training data apply.",
    ):
        assert said in card.text, said
    settings = re.search(r"```toml\n(.*?)```", card.text, re.DOTALL)
    assert settings is not None
    assert settings[1] == (
        '[model]\nname_or_path = "start"\n\n[data]\ntrain = "forms"\ntest = "held-out"\neval = 0.1\n'
        'ignore_types = [\n    "OTHER",\n]\n\n[optimizer]\nname = "lamb"\nlr = 0.25\n\n[schedule]\nmax_steps = 2\n\n'
        "[run]\nseed = 7\n"
    )
    for hidden in ("anna", "/home", "secret", "of-this-machine"):
        assert hidden not in card.content


def test_names_from_the_data_are_only_text(run: Path) -> None:
    card = model_card(checkpoint_path(run, 2))
    rows = [line for line in card.splitlines() if line.endswith(" | 0.5000 | 1.0000 | 0.6667 | 3 |")]
    assert [row.removeprefix("| ").partition(" | 0.5")[0] for row in rows] == [
        r"a\|b",
        "&lt;script&gt;x&lt;/script&gt;",
        "up down",
        r"\*bold\*\_",
        r"\[x\](http://y)",
        "plain",
    ]
    assert "<script" not in card
    run = run.rename(run.parent / "x: [y]\n---\nlicense: mit")
    front = model_card(checkpoint_path(run, 2)).split("\n---\n\n# ")[0].removeprefix("---\n")
    tree = yaml.safe_load(front)
    assert tree["model-index"][0]["name"] == "x: [y]\n---\nlicense: mit"
    assert "license" not in tree


def test_scores_are_those_of_the_checkpoint(run: Path) -> None:
    first = model_card(checkpoint_path(run, 1))
    assert "This checkpoint has not been scored after training." in first
    assert "model-index" not in first
    assert "model_name" not in first
    assert "1 optimizer steps from start.\n" in first
    for damaged in ("{", "[]", '{"f1": 1}', '{"format_version": 99}'):
        (run / "scores.json").write_text(damaged)
        assert "has not been scored" in model_card(checkpoint_path(run, 2))
    for name in ("scores.json", "environment.json", "training_pages.txt"):  # as in an older run
        (run / name).unlink()
    card = model_card(checkpoint_path(run, 2))
    assert "has not been scored" in card
    assert "Versions" not in card
    assert "digests" not in card


def test_a_score_that_is_too_good_says_so(run: Path) -> None:
    last = checkpoint_path(run, 2)
    assert "chosen on these" not in model_card(last)
    chosen = {"checkpoint": {"step": 2, "by": "test f1", "chosen_on_test": True}}
    (run / "scores.json").write_text(json.dumps(SCORES | chosen))
    assert "**The checkpoint was chosen on these test pages, which inflates the score.**" in model_card(last)
    (run / "scores.json").write_text(json.dumps(SCORES | {"split": "eval", "f1_interval": None}))
    card = model_card(last)
    assert "The checkpoint was chosen on these pages, which inflates the score." in card
    assert "forms, eval" in card  # a share of data.train
    assert "F1 0.7742 on the split eval" in card
    preprocessing = Preprocessing.read(run / "layoutner.json").model_copy(
        update={"chosen_on_test": True, "origin": {"base_model": "org/start", "pages": 1, "words": 2, "windows": 1}}
    )
    preprocessing.write(run / "layoutner.json")
    (run / "scores.json").unlink()
    card = model_card(last)
    assert "**It was chosen on its test pages, which inflates every score on them.**" in card
    assert "base_model: org/start\n" in card
    assert "from org/start, the best" in card


def test_the_card_knows_the_boxes_of_every_family() -> None:
    divisors = {"thousandths": 1, "fractions": 1000}
    boxed = {
        name: (tuple(map(list, row.special_boxes)), divisors[row.boxes])
        for name, row in FAMILIES.items()
        if row.boxes != "none"
    }
    assert boxed == BOXED


@pytest.mark.parametrize("family", ["bert", "roberta", "layoutlm", "lilt", "bros", "layoutlmv3", "modernbert"])
def test_the_example_of_transformers_answers_as_layoutner(
    family: str,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_export(checkpoints[family], tmp_path, ["O", "B-X", "I-X", "B-Y", "I-Y"])
    # As a run saves it.
    open_tokenizer(str(folder), family, AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(transformers_example(family), "card", "exec", dont_inherit=True), names)
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [word for word, _ in said] == names["words"]
    boxes = tuple(map(tuple, names.get("boxes", [[0, 0, 1, 1]] * 5)))
    (page,) = load_model(".", device="cpu").predict([Document("a", tuple(names["words"]), boxes, None, (1000, 1000))])
    # layoutner writes a lone I- as the B- that it is.
    assert to_spans([tag for _, tag in said]) == to_spans([word.label for word in page.words])
    with torch.no_grad():
        best = names["network"](**names["inputs"]).logits[0].softmax(-1).max(-1).values.tolist()
    found = [best[names["word_of"].index(word)] for word in range(5)]
    assert found == pytest.approx([word.probability for word in page.words], rel=1e-4)
    assert len({round(value, 6) for value in found}) > 1


def test_the_examples_of_layoutner_run(
    checkpoints: dict[str, Path],
    run: Path,
    forms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_export(checkpoints["layoutlm"], tmp_path, ["O", "B-X", "I-X"])
    jsonl.write(folder / "pages.jsonl", jsonl.page("first"))
    shutil.copyfile(next(forms.glob("testing_data/images/*.png")), folder / "page.png")
    monkeypatch.chdir(folder)
    card = model_card(checkpoint_path(run, 2))
    code, command = (re.search(rf"```{kind}\n(.*?)```", card, re.DOTALL) for kind in ("python", "bash"))
    assert code is not None
    assert command is not None
    exec(compile(code[1], "card", "exec", dont_inherit=True), {})
    assert all(line.startswith("first X ") for line in capsys.readouterr().out.splitlines())
    if shutil.which("tesseract") is None:
        pytest.skip("no tesseract")
    result, out, err = call(capsys, *command[1].split()[1:])
    assert result == 0, err
    assert json.loads(out)["document"] == "page"
