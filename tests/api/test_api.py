"""The public functions: what they give, and that they leave nothing behind in the process of the caller."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import layoutner
from layoutner.demo.forms import make_forms
from tests.builders.families import make_export
from tests.builders.processes import launch

# python -c PROGRAM FORMS MODEL FOLDER: trains three times, the second time in vain, the last in a thread.
PROGRAM = """
import json, logging, os, random, signal, sys, threading
from pathlib import Path
import numpy, torch
import layoutner

forms, model, folder = map(Path, sys.argv[1:])

def settings(name, **schedule):
    tree = {
        "model": {"name_or_path": str(model), "dropout": 0.0},
        "data": {"train": forms, "eval": 0.25, "test": forms, "max_length": 128, "stride": 16},
        "batch": {"global_batch_size": 8, "micro_batch_size": 4},
        "optimizer": {"lr": schedule.pop("lr", 3e-3)},
        "schedule": {"max_steps": 3},
        "precision": {"dtype": "fp32"},
        "run": {"output_dir": folder / name, "device": "cpu"},
    }
    return layoutner.load_settings(None, tree)

def state():
    signals = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    drawn = [repr(random.getstate()), repr(numpy.random.get_state()), torch.get_rng_state().tolist()]
    logs = [logging.getLogger(name).handlers for name in (None, "layoutner")]
    return [dict(os.environ), torch.get_num_threads(), torch.distributed.is_initialized(), os.getcwd(), signals, drawn,
            logs, sorted(name for name in os.listdir(folder) if name.startswith("."))]

before = state()
first = layoutner.train(settings("first"))
after_first = state()
try:
    layoutner.train(settings("second", lr=1e38))
except layoutner.TrainingDiverged as error:
    failure = str(error)
after_second = state()
results = []
thread = threading.Thread(target=lambda: results.append(layoutner.train(settings("third"))))
thread.start()
thread.join()
print(json.dumps({
    "same": [before == after_first, before == after_second, before == state()],
    "scores": [first.to_dict(), results[0].to_dict()],
    "failure": failure,
    "model": str(first.model_dir),
}))
"""

TYPES = ("DUE", "ITEM", "ORDERED", "PRICE", "QUANTITY", "RECEIVER", "SENDER", "TOTAL")  # of the made-up forms


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training forms and two test forms."""
    folder = tmp_path_factory.mktemp("few") / "forms"
    make_forms(folder, train=8, test=2, seed=5)
    return folder


def test_a_program_that_trains_is_left_as_it_was(few: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    done = launch([Path(sys.executable).name, "-c", PROGRAM, few, checkpoints["layoutlm"], tmp_path])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same"] == [True, True, True]
    first, third = found["scores"]
    assert first == third == json.loads((tmp_path / "first" / "scores.json").read_text())
    assert first["counts"]["documents"] == 2
    assert "the loss of optimizer step" in found["failure"]
    # The command line trains to the same numbers.
    asked = (tmp_path / "first" / "settings.toml").read_text().replace(str(tmp_path / "first"), str(tmp_path / "cli"))
    (tmp_path / "cli.toml").write_text(asked)
    assert launch(["layoutner", "train", "--config", tmp_path / "cli.toml"]).returncode == 0
    assert json.loads((tmp_path / "cli" / "scores.json").read_text()) == first


@pytest.fixture(scope="module")
def exported(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    tags = ["O", *(f"{prefix}-{kind}" for kind in TYPES for prefix in "BI")]
    return make_export(checkpoints["layoutlm"], tmp_path_factory.mktemp("models"), tags)


def test_a_model_labels_what_predict_writes(few: Path, exported: Path, tmp_path: Path) -> None:
    model = layoutner.load_model(exported, device="cpu")
    assert (model.family, model.labels) == ("layoutlm", TYPES)
    pages = model.predict(few, split="test")
    out = tmp_path / "pages.jsonl"
    assert launch(["layoutner", "predict", few, "--model", exported, "--output", out]).returncode == 0
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(pages) == 2
    assert [page.to_dict(tmp_path) for page in pages] == written
    documents = layoutner.read_documents(few, split="test")
    assert model.predict(documents, batch_size=3) == model.predict(documents)
    page = pages[0]
    assert [word.text for word in page.words] == list(page.document.words)
    for entity in page.entities:
        assert entity.text == " ".join(word.text for word in page.words[entity.start : entity.end])


def test_a_model_is_scored_by_folder_or_as_an_object(few: Path, exported: Path) -> None:
    scores = layoutner.evaluate(exported, few)
    assert scores == layoutner.evaluate(layoutner.load_model(exported), layoutner.read_documents(few))
    assert scores.counts["documents"] == 2


def test_a_document_can_be_made_by_hand(exported: Path) -> None:
    document = layoutner.Document("a", ("Total", "9.00"), ((10, 20, 60, 40), (65, 20, 90, 40)), None, (200, 400))
    (page,) = layoutner.load_model(exported).predict([document])
    assert [(word.text, word.box) for word in page.words] == [("Total", (10, 20, 60, 40)), ("9.00", (65, 20, 90, 40))]
    assert all(0 < word.probability <= 1 for word in page.words)


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda here: layoutner.load_settings(here / "no.toml"), layoutner.SettingsError, "no.toml"),
        (
            lambda here: layoutner.load_settings(None, {"schedule": {"epoch": 3}}),
            layoutner.SettingsError,
            "the overrides: schedule.epoch",
        ),
        (lambda here: layoutner.train(layoutner.load_settings()), layoutner.SettingsError, "data.train is missing"),
        (lambda here: layoutner.load_model(here / "none"), layoutner.ModelError, "none: no such folder"),
        (
            lambda here: layoutner.read_documents(here / "none"),
            layoutner.DataError,
            "documents = .*none: no such file or folder",
        ),
        (
            lambda here: layoutner.read_documents(here, form="funsd"),
            layoutner.SettingsError,
            "the arguments: data.form",
        ),
    ],
)
def test_what_is_wrong_is_one_error(
    call: Callable[[Path], object], kind: type[layoutner.LayoutnerError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=said):
        call(tmp_path)


def test_every_public_name_is_there_and_typed() -> None:
    assert {name for name in layoutner.__all__ if getattr(layoutner, name) is None} == set()
    assert set(layoutner.__all__) <= set(dir(layoutner))
    assert (Path(layoutner.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="has no attribute 'predict'"):
        _ = layoutner.predict  # type: ignore[attr-defined]


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, layoutner; layoutner.Settings; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
