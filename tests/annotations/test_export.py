"""Predictions become tasks of Label Studio; imported unchanged, they give the predicted labels again."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from layoutner.annotations.importing import label_pages, write_pages
from layoutner.annotations.label_studio import Choice, read_export
from layoutner.annotations.tasks import labelling_interface, make_task
from layoutner.documents.roles import read_documents
from layoutner.files.image import PageImage
from layoutner.inference.labelled_page import LabelledPage, label_page
from layoutner.objectives.evaluate import WordPrediction
from layoutner.pages.document import Box
from layoutner.pages.labels import LabelSet
from layoutner.settings.data import DataSettings
from tests.builders.annotations import document
from tests.builders.families import make_export
from tests.builders.processes import call

LABELS = LabelSet("BIO", ("DATE", "NAME"))


def predicted(tags: list[str], boxes: list[Box], probabilities: list[float] | None = None) -> LabelledPage:
    page = document("a", *((f"w{number}", box) for number, box in enumerate(boxes)))
    given = probabilities or [0.9] * len(tags)
    answers = [WordPrediction(LABELS.ids[tag], chance) for tag, chance in zip(tags, given, strict=True)]
    return label_page(page, answers, LABELS)


def imported(page: LabelledPage, folder: Path) -> tuple[str, ...] | None:
    (folder / "tasks.json").write_text(json.dumps([make_task(page, "/x/a.png", "m")]))
    export = read_export(folder / "tasks.json", Choice(predictions=True))
    return label_pages(export, [page.document], False, folder).documents[0].tags


def test_a_task_has_a_rectangle_and_a_text_for_each_line_of_an_entity() -> None:
    boxes: list[Box] = [(100, 100, 200, 120), (210, 102, 300, 120), (100, 130, 180, 150), (500, 500, 600, 510)]
    page = predicted(["B-NAME", "I-NAME", "I-NAME", "O"], boxes, [0.9, 0.7, 0.8, 0.6])
    task = make_task(page, "/data/local-files/?d=a.png", "layoutner m")
    assert task["data"] == {"image": "/data/local-files/?d=a.png", "document": "a"}
    (prediction,) = task["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("layoutner m", 0.75)
    first, text, second, _ = prediction["result"]
    assert first == {
        "id": "layoutner-0-0",
        "from_name": "label",
        "to_name": "image",
        "type": "rectanglelabels",
        "score": 0.7,
        "original_width": 800,
        "original_height": 1000,
        "image_rotation": 0,
        "value": {"x": 10, "y": 10, "width": 20, "height": 2, "rotation": 0, "rectanglelabels": ["NAME"]},
    }
    assert (text["id"], text["type"], text["value"]["text"]) == ("layoutner-0-0", "textarea", ["w0 w1"])
    assert (second["id"], second["score"]) == ("layoutner-0-1", 0.8)


def test_what_comes_back_are_the_labels_that_went_out(tmp_path: Path) -> None:
    line: list[Box] = [(100 + 100 * n, 100, 180 + 100 * n, 120) for n in range(5)]
    for tags in (
        ["B-NAME", "I-NAME", "B-NAME", "O", "B-DATE"],
        ["O", "I-DATE", "B-DATE", "I-NAME", "O"],
        ["O"] * 5,
    ):
        page = predicted(tags, line)
        assert imported(page, tmp_path) == tuple(word.label for word in page.words)
    # A rectangle around the first and the third word would have the second one, too.
    turned = [line[0], line[2], line[1]]
    page = predicted(["B-NAME", "I-NAME", "O"], turned)
    assert imported(page, tmp_path) == ("B-NAME", "I-NAME", "O")
    assert len(make_task(page, "", "m")["predictions"][0]["result"]) == 4
    flat: list[Box] = [(10, 10, 10, 10), (20, 10, 20, 10)]
    assert imported(predicted(["B-NAME", "I-NAME"], flat), tmp_path) == ("B-NAME", "I-NAME")
    assert imported(predicted([], []), tmp_path) == ()


def test_the_labelling_interface_is_xml_with_the_types() -> None:
    view = ElementTree.fromstring(labelling_interface(["TOTAL", 'a "b" & <c>']))
    assert [label.get("value") for label in view.iter("Label")] == ["TOTAL", 'a "b" & <c>']
    assert [part.get("name") for part in view] == ["image", "label", "transcription"]


@pytest.fixture(scope="module")
def model(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_export(checkpoints["layoutlm"], tmp_path_factory.mktemp("models"), LABELS.tags)


def test_out_and_back_by_the_commands(
    model: Path, forms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks, back, labelled = tmp_path / "tasks.json", tmp_path / "back.jsonl", tmp_path / "predicted.jsonl"
    pages = (forms / "testing_data", "--data.format", "funsd")
    code, out, err = call(
        capsys, "data", "export", *pages, "--to", "label-studio", "--model", model, "--out", tasks, "--device", "cpu"
    )
    assert (code, err) == (0, "")
    interface = tmp_path / "tasks.xml"
    assert out.splitlines() == [
        f"{tasks}: 8 tasks, the least certain first",
        f"{interface}: the labelling interface, for Settings > Labeling Interface > Code",
    ]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tasks.json", "tasks.xml"]
    written = json.loads(tasks.read_text())
    scores = [task["predictions"][0]["score"] for task in written]
    assert scores == sorted(scores)
    assert written[0]["data"]["image"].startswith("/data/local-files/?d=images/test-")
    assert call(capsys, "predict", *pages, "--model", model, "--output", labelled)[0] == 0
    arguments = ("data", "import", tasks, "--from", "label-studio", "--pages", *pages, "--out", back)
    code, out, err = call(capsys, *arguments, "--predictions")
    assert code == 0
    assert "pages: 8 with an annotation, 0 without\n" in out
    ours = {page.name: page for page in read_documents(DataSettings(format="jsonl"), back, "test")}
    theirs = read_documents(DataSettings(format="jsonl"), labelled, "test")
    assert len(ours) == len(theirs) == 8
    assert sum(tag != "O" for page in theirs for tag in page.tags or ()) > 50
    assert [ours[page.name].tags for page in theirs] == [page.tags for page in theirs]


def test_pages_that_label_studio_cannot_show_are_named(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pages").mkdir()
    Image.new("L", (80, 100)).save(tmp_path / "pages" / "a b.png")
    frames = [Image.new("L", (80, 100))] * 2
    frames[0].save(tmp_path / "pages" / "c.tif", save_all=True, append_images=frames[1:])
    word = ("Total", (1, 2, 3, 4))
    kept = document("a", word, image=PageImage(tmp_path / "pages" / "a b.png"))
    file = tmp_path / "pages" / "pages.jsonl"
    arguments = ("data", "export", file, "--to", "label-studio", "--model", model, "--out", tmp_path / "tasks.json")
    write_pages(
        [kept, document("b", word), document("c", word, image=PageImage(tmp_path / "pages" / "c.tif", 1))], file
    )
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "layoutner: error: Label Studio needs an image of each page, such as a PNG; 2 page(s) have none:",
        "  - b: has no image",
        "  - c: its image is c.tif, which browsers do not show",
    ]
    assert not (tmp_path / "tasks.json").exists()
    write_pages([kept], file)
    assert call(capsys, *arguments, "--image-url", "https://x.org/i/")[0] == 0
    assert json.loads((tmp_path / "tasks.json").read_text())[0]["data"]["image"] == "https://x.org/i/a%20b.png"
    code, _, err = call(capsys, *arguments[:-1], tmp_path / "tasks.xml")
    assert (code, err) == (2, f"layoutner: error: --out {tmp_path / 'tasks.xml'}: name a file such as tasks.json\n")
