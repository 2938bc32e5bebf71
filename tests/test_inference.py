"""Export, prediction and drawing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForTokenClassification, AutoTokenizer

from layoutner.config.settings import DataSettings
from layoutner.data.corpus import read_documents
from layoutner.inference.draw import COLOURS, draw
from tests.conftest import call, launch
from tests.ranks import BY_RANK, finish, start

Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def run(train_arguments: Arguments, forms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt something, in bf16, with checkpoints chosen on a fraction."""
    folder = tmp_path_factory.mktemp("inference") / "run"
    more = {"schedule__max_steps": 40, "data__eval": 0.2, "run__eval_every": 20, "precision__dtype": "bf16"}
    done = launch(["layoutner", "train", *train_arguments(folder, **more)])
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model"
    done = launch(["layoutner", "export", run, out])
    assert done.returncode == 0, done.stderr
    best = json.loads((run / "checkpoints" / "step-000040" / "state.json").read_text())["state"]["best_step"]
    assert f"step-{best:06d} exported to {out}" in done.stdout
    return out


def test_an_export_is_a_hugging_face_folder(run: Path, exported: Path) -> None:
    model = AutoModelForTokenClassification.from_pretrained(exported)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert type(model).__name__ == "LayoutLMForTokenClassification"
    assert model.dtype == torch.bfloat16
    assert tokenizer.is_fast
    preprocessing = json.loads((exported / "layoutner.json").read_text())
    assert list(model.config.id2label.values()) == preprocessing["labels"]
    assert (preprocessing["max_length"], preprocessing["stride"], preprocessing["scheme"]) == (128, 16, "BIO")
    assert model.config.label2id["B-SENDER"] == preprocessing["labels"].index("B-SENDER")
    weights = load_file(exported / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])
    assert not list(exported.glob("*.bin"))


def test_a_checkpoint_of_choice_is_exported(run: Path, tmp_path: Path) -> None:
    done = launch(["layoutner", "export", run / "checkpoints" / "step-000040", tmp_path / "last"])
    assert done.returncode == 0, done.stderr
    source = run / "checkpoints" / "step-000040" / "model.safetensors"
    assert (tmp_path / "last" / "model.safetensors").read_bytes() == source.read_bytes()


def test_every_word_gets_one_label_and_a_probability(exported: Path, forms: Path, tmp_path: Path) -> None:
    out, pictures = tmp_path / "new" / "words.jsonl", tmp_path / "pictures"
    command = ["layoutner", "predict", "--model", exported, "--input", forms, "--output", out, "--draw", pictures]
    done = launch(command)
    assert done.returncode == 0, done.stderr
    pages = [json.loads(line) for line in out.read_text().splitlines()]
    documents = read_documents(DataSettings(format="funsd"), forms, "test")
    tags = json.loads((exported / "layoutner.json").read_text())["labels"]
    assert [page["document"] for page in pages] == [document.name for document in documents]
    for page, document in zip(pages, documents, strict=True):
        assert [word["text"] for word in page["words"]] == list(document.words)
        assert [tuple(word["box"]) for word in page["words"]] == list(document.boxes)
        for word in page["words"]:
            assert word["label"] in tags
            assert 1 / len(tags) <= word["probability"] <= 1
        for entity in page["entities"]:
            start, end = entity["words"]
            assert entity["text"] == " ".join(document.words[start:end])
            assert entity["box"][0] == min(box[0] for box in document.boxes[start:end])
        with Image.open(pictures / f"{document.name}.png") as picture:
            assert picture.width == document.page_size[0]


def test_labels_are_not_needed_and_standard_output_is_the_default(
    exported: Path, forms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = forms / "testing_data"
    for kind in ("annotations", "images"):
        (tmp_path / kind).mkdir()
    form = json.loads((source / "annotations" / "test-0000.json").read_text())
    for entity in form["form"]:
        del entity["label"]
    (tmp_path / "annotations" / "test-0000.json").write_text(json.dumps(form))
    (tmp_path / "images" / "test-0000.png").write_bytes((source / "images" / "test-0000.png").read_bytes())
    capsys.readouterr()
    code, unlabelled, _ = call(capsys, "predict", "--model", exported, "--input", tmp_path)
    _, labelled, _ = call(capsys, "predict", "--model", exported, "--input", source / "annotations" / "test-0000.json")
    assert code == 0
    assert json.loads(unlabelled) == json.loads(labelled)
    code, _, said = call(capsys, "evaluate", "--model", exported, "--input", tmp_path)
    assert code == 2
    assert "test-0000: its words have no labels" in said


def test_the_drawing_shows_each_entity_in_its_colour(tmp_path: Path) -> None:
    page = {
        "page_size": [200, 100],
        "words": [{"text": "x", "box": [500, 500, 600, 700]}],
        "entities": [{"type": "B", "box": [500, 500, 600, 700]}],
    }
    draw(page, None, ("A", "B"), tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as file:
        picture = file.copy()
    assert picture.size == (200, 100 + 24)
    assert "#{:02X}{:02X}{:02X}".format(*picture.getpixel((98, 60))) == COLOURS[1]
    assert "#{:02X}{:02X}{:02X}".format(*picture.getpixel((15, 112))) == COLOURS[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "/nowhere", "out"], "/nowhere: no such run folder"),
        (["export", "RUN/model", "out"], "holds no complete checkpoint"),
        (["export", "RUN", "RUN"], "there is something already"),
        (["predict", "--model", "/nowhere", "--input", "FORMS"], "--model /nowhere: no such folder"),
        (["predict", "--model", "RUN", "--input", "/nowhere"], "--input /nowhere: no such file or folder"),
        (["predict", "--model", "RUN/checkpoints", "--input", "FORMS"], "not a model exported by layoutner"),
        (["predict", "--model", "RUN/export", "--input", "RUN"], "not a FUNSD folder"),
        (["predict", "--model", "RUN/export", "--input", "FORMS", "--batch", "0"], "--batch 0"),
        (["predict", "--model", "RUN/export", "--input", "FORMS", "--output", "/proc/x/y"], "cannot be written"),
        (["predict", "--model", "RUN/export", "--input", "FORMS", "--output", "RUN"], "is a folder"),
        (["predict", "--model", "TORN", "--input", "FORMS"], "its network cannot be loaded"),
        (["evaluate", "--model", "BARE", "--input", "FORMS"], "tokenizer"),
        (["predict", "--modle", "x"], "required: --model"),
    ],
)
def test_bad_input_gets_one_clear_message(
    arguments: list[str],
    message: str,
    run: Path,
    forms: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"RUN": str(run), "FORMS": str(forms), "TORN": str(tmp_path / "torn"), "BARE": str(tmp_path / "bare")}
    for name in ("torn", "bare"):
        (tmp_path / name).mkdir()
        for file in (run / "export").iterdir():
            content = file.read_bytes()
            if name == "bare" and file.name.startswith("tokenizer"):
                continue
            cut = len(content) // 2 if name == "torn" and file.suffix == ".safetensors" else None
            (tmp_path / name / file.name).write_bytes(content[:cut])
    for name, place in places.items():
        arguments = [argument.replace(name, place) for argument in arguments]
    capsys.readouterr()
    code, _, said = call(capsys, *arguments)
    assert code == 2
    assert said.startswith("layoutner: error: ")
    assert message in said


def test_a_run_that_one_rank_sees_in_part_ends_both_with_one_message(run: Path, forms: Path, tmp_path: Path) -> None:
    for rank in (0, 1):
        (tmp_path / str(rank) / "run").mkdir(parents=True)
        for entry in run.iterdir():
            (tmp_path / str(rank) / "run" / entry.name).symlink_to(entry)
    (tmp_path / "1" / "run" / "layoutner.json").unlink()
    started = start(["-c", BY_RANK, tmp_path, "evaluate", forms, "--checkpoints", "run"])
    for rank, (code, _, err) in enumerate(finish(started)):
        # Libraries may warn beside it.
        (line,) = (line for line in err.splitlines() if line.startswith("layoutner: "))
        assert code == 2
        assert "Traceback" not in err
        assert line.startswith(
            f"layoutner: {'rank 1: ' if rank else ''}error: rank 1: {tmp_path}/1/run: layoutner.json "
        )
