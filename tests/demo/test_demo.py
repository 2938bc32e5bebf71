"""`layoutner demo`, and that it needs the layout."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.builders.forks import fork


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("demo") / "run"
    done = fork(["layoutner", "demo", "--run.output_dir", run])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "deepspeed --num_gpus 2 --module layoutner train --config demo" in done.stdout
    assert "step 216/216 loss" in done.stdout
    assert not re.search(r"\[(INFO|WARNING)\]", done.stdout + done.stderr)  # what the launcher and DeepSpeed say
    return run


@pytest.mark.slow
def test_the_demo_learns_its_forms(demo: Path) -> None:
    scores = json.loads((demo / "scores.json").read_text())
    assert scores["split"] == "test"
    assert scores["counts"]["documents"] == 80
    assert scores["f1"] >= 0.95
    (page,) = [json.loads(line) for line in (demo / "prediction.jsonl").read_text().splitlines()]
    assert {entity["type"] for entity in page["entities"]} >= {"SENDER", "RECEIVER", "TOTAL"}
    with Image.open(demo / "prediction.png") as picture:
        assert picture.height > page["page_size"][1]


@pytest.mark.slow
def test_without_the_layout_it_cannot_tell_them_apart(demo: Path, tmp_path: Path) -> None:
    done = fork(["layoutner", "demo", "--run.output_dir", tmp_path / "bert", "--model.family", "bert"])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    with_layout = json.loads((demo / "scores.json").read_text())["f1"]
    assert json.loads((tmp_path / "bert" / "scores.json").read_text())["f1"] <= with_layout - 0.10


def test_the_demo_spares_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = fork(["layoutner", "demo", "--run.output_dir", tmp_path])
    assert done.returncode == 2
    assert "holds files not made by a demo" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_demo_takes_no_data_of_yours() -> None:
    done = fork(["layoutner", "demo", "--data.train=mine", "--model.family=roberta"])
    assert done.returncode == 2
    assert "data.train: the demo makes its own forms" in done.stderr


def test_forms_are_the_same_for_the_same_seed(forms: Path, tmp_path: Path) -> None:
    from layoutner.demo.forms import make_forms

    make_forms(tmp_path, train=24, test=8, seed=7)
    for file in sorted(forms.rglob("*.json")):
        assert (tmp_path / file.relative_to(forms)).read_bytes() == file.read_bytes()
