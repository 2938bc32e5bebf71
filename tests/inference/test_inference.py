"""Export, prediction and drawing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageChops, ImageOps
from safetensors.torch import load_file
from transformers import AutoModelForTokenClassification, AutoTokenizer

from layoutner.documents.roles import read_documents
from layoutner.files.image import PageImage
from layoutner.inference.draw import COLOURS, draw
from layoutner.settings.data import DataSettings
from layoutner.settings.tree import load
from layoutner.training.plan import make_plan
from tests.builders.forks import BY_RANK, fork, fork_apart
from tests.builders.processes import call, launch

Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def run(train_arguments: Arguments, forms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt something, in bf16, with checkpoints chosen on a fraction."""
    folder = tmp_path_factory.mktemp("inference") / "run"
    more = {"schedule__max_steps": 40, "data__eval": 0.2, "run__eval_every": 20, "precision__dtype": "bf16"}
    done = fork(["layoutner", "train", *train_arguments(folder, **more)])
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model"
    done = fork(["layoutner", "export", run, out])
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
    # The card that `train` wrote after it had scored the model, and that of `export`.
    card = (exported / "README.md").read_text()
    assert (run / "export" / "README.md").read_text() == card
    scores = json.loads((run / "scores.json").read_text())
    assert f"F1 {scores['f1']:.4f}" in card
    assert "Training data: 19 pages," in card
    assert str(run.parent) not in card


def test_a_checkpoint_of_choice_is_exported(run: Path, tmp_path: Path) -> None:
    done = fork(["layoutner", "export", run / "checkpoints" / "step-000040", tmp_path / "last"])
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
    assert picture.size == (1400, 700 + 24)
    assert "#{:02X}{:02X}{:02X}".format(*picture.getpixel((699, 420))) == COLOURS[1]
    assert "#{:02X}{:02X}{:02X}".format(*picture.getpixel((15, 712))) == COLOURS[0]


def test_types_that_share_a_colour_have_other_numbers_at_their_boxes(tmp_path: Path) -> None:
    types = tuple(f"TYPE{number}" for number in range(len(COLOURS) + 1))
    pictures = []
    for kind in (types[0], types[-1]):  # of one colour
        page = {"page_size": [1000, 1000], "words": [], "entities": [{"type": kind, "box": [500, 500, 600, 700]}]}
        draw(page, None, types, tmp_path / "page.png")
        with Image.open(tmp_path / "page.png") as file:
            pictures.append(file.crop((0, 0, 1000, 1000)))
    changed = ImageChops.difference(*pictures).getbbox()
    assert changed is not None
    left, top, right, bottom = changed
    assert (left >= 480, right <= 498, top >= 498, bottom <= 520) == (True,) * 4  # left of the box's upper corner
    # With no more types than colours, colours are enough.
    draw(page | {"entities": [{"type": "B", "box": [500, 500, 600, 700]}]}, None, ("A", "B"), tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as file:
        assert file.crop((0, 0, 498, 1000)).getcolors() == [(498_000, (255, 255, 255))]


def test_a_number_at_a_box_covers_no_word_where_there_is_room(tmp_path: Path) -> None:
    types = tuple(f"TYPE{number}" for number in range(len(COLOURS) + 1))
    beside = {"text": "beside", "box": [400, 500, 495, 540]}  # where the number would be
    entity = {"type": types[-1], "box": [500, 500, 600, 540]}
    page = {"page_size": [1000, 1000], "words": [beside], "entities": []}
    pictures = []
    for entities in ([], [entity]):
        draw(page | {"entities": entities}, None, types, tmp_path / "page.png")
        with Image.open(tmp_path / "page.png") as file:
            pictures.append(file.crop((0, 0, 1000, 1000)))
    changed = ImageChops.difference(*pictures).getbbox()
    assert changed is not None
    assert changed[0] >= 497  # the box's own line
    assert changed[2] > 605  # the number, right of it


def test_text_is_as_large_as_its_box_lets_it_be(tmp_path: Path) -> None:
    for box in ([100, 100, 400, 150], [100, 100, 140, 400], [100, 100, 900, 120]):
        page = {"page_size": [1000, 1000], "words": [{"text": "Invoice", "box": box}], "entities": []}
        draw(page, None, ("A",), tmp_path / "page.png")
        with Image.open(tmp_path / "page.png") as file:
            inked = ImageOps.invert(file.crop((0, 0, 1000, 1000))).getbbox()
        assert inked is not None
        x0, y0, x1, y1 = box
        assert x0 <= inked[0] <= inked[2] <= x1 + 1
        assert y0 <= inked[1] <= inked[3] <= y1 + 1
        assert inked[2] - inked[0] > 0.6 * (x1 - x0) or inked[3] - inked[1] > 0.5 * (y1 - y0)


def test_a_page_of_any_kind_is_drawn_as_it_is_seen(tmp_path: Path) -> None:
    grey = Image.new("L", (1000, 900), 150)
    grey.paste(20, (0, 0, 500, 450))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    grey.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(tmp_path / "wide.png")
    for name in ("turned", "wide"):
        page = {"page_size": [1000, 900], "words": [], "entities": []}
        draw(page, PageImage(tmp_path / f"{name}.png"), ("A",), tmp_path / "page.png")
        with Image.open(tmp_path / "page.png") as file:
            assert [file.getpixel(at) for at in ((100, 100), (900, 100), (100, 800))] == [
                (20,) * 3,
                (150,) * 3,
                (150,) * 3,
            ]


def test_a_page_in_points_is_drawn_larger_and_a_strip_no_larger_than_any(tmp_path: Path) -> None:
    strip = {"page_size": [10, 3000], "words": [], "entities": []}
    draw(strip, None, ("A",), tmp_path / "strip.png")
    with Image.open(tmp_path / "strip.png") as file:
        assert file.size == (20, 6000 + 200)
    page = {"page_size": [595.276, 841.89], "words": [], "entities": []}
    draw(page, None, ("A",), tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as file:
        assert file.size == (1191, 1684 + 56)  # twice as large; the legend is a row of twice 1684 // 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "/nowhere", "out"], "/nowhere: no such run folder"),
        (["export", "RUN/model", "out"], "holds no complete checkpoint"),
        (["export", "RUN", "RUN"], "already exists; give a new folder"),
        (["predict", "--model", "/nowhere", "--input", "FORMS"], "--model /nowhere: no such folder"),
        (["predict", "--model", "RUN", "--input", "/nowhere"], "--input /nowhere: no such file or folder"),
        (["predict", "--model", "RUN/checkpoints", "--input", "FORMS"], "not a model exported by layoutner"),
        (["predict", "--model", "RUN/export", "--input", "RUN"], "not a FUNSD folder"),
        (["predict", "--model", "RUN/export", "--input", "FORMS", "--batch", "0"], "--batch 0"),
        (
            ["predict", "--model", "RUN/export", "--input", "FORMS", "--data.max_image_mib", "0"],
            "data.max_image_mib = '0': input should be greater than or equal to 1",
        ),
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
    done = fork_apart(["-c", BY_RANK, tmp_path, "evaluate", forms, "--checkpoints", "run"])
    for rank, (code, _, err) in enumerate(done):
        # Libraries may warn beside it.
        (line,) = (line for line in err.splitlines() if line.startswith("layoutner: "))
        assert code == 2
        assert "Traceback" not in err
        assert line.startswith(
            f"layoutner: {'rank 1: ' if rank else ''}error: rank 1: {tmp_path}/1/run: layoutner.json "
        )


def test_a_score_on_pages_trained_on_says_so(run: Path, exported: Path, forms: Path, tmp_path: Path) -> None:
    digests = (exported / "training_pages.txt").read_text().split()
    assert digests == (run / "export" / "training_pages.txt").read_text().split()
    assert len(set(digests)) == 19  # of 24, of which data.eval = 0.2 took 5
    trained = fork(["layoutner", "evaluate", forms, "--model", exported, "--split", "train"])
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["counts"]["documents_trained_on"] == 19
    assert "note: the model was trained on 19 of these 24 pages, which inflates the score" in trained.stderr
    new = fork(["layoutner", "evaluate", forms, "--model", exported])
    assert json.loads(new.stdout)["counts"]["documents_trained_on"] == 0
    assert "trained on" not in new.stderr
    # Pages are known by their words and boxes, whatever file they come in and whatever they are called.
    predicted = fork(["layoutner", "predict", forms, "--model", exported, "--split", "train"])
    pages = [{**json.loads(line), "document": f"page {n}"} for n, line in enumerate(predicted.stdout.splitlines())]
    (tmp_path / "pages.jsonl").write_text("\n".join(map(json.dumps, pages)))
    again = fork(["layoutner", "evaluate", tmp_path / "pages.jsonl", "--model", exported])
    assert json.loads(again.stdout)["counts"]["documents_trained_on"] == 19


def test_training_further_remembers_the_pages_of_before(exported: Path, forms: Path, tmp_path: Path) -> None:
    test_pages = {
        "data__train": forms / "testing_data",
        "model__name_or_path": exported,
        "data__max_length": 128,
        "data__stride": 16,
    }
    given = {"schedule__max_steps": 1, "batch__micro_batch_size": 1, "precision__dtype": "fp32", **test_pages}
    tree: dict[str, dict[str, str]] = {}
    for name, value in given.items():
        section, key = name.split("__")
        tree.setdefault(section, {})[key] = str(value)
    pages = make_plan(load(None, tree), world_size=1).training_pages
    before = set((exported / "training_pages.txt").read_text().split())
    assert before < {f"{page:016x}" for page in pages.tolist()}
    assert len(pages) == len(before) + 8


def test_a_model_of_the_first_version_is_scored_without_a_word_on_its_pages(
    exported: Path, forms: Path, tmp_path: Path
) -> None:
    shutil.copytree(exported, tmp_path / "old", ignore=shutil.ignore_patterns("training_pages.txt"))
    done = fork(["layoutner", "evaluate", forms, "--model", tmp_path / "old"])
    assert done.returncode == 0, done.stderr
    assert "documents_trained_on" not in json.loads(done.stdout)["counts"]
