"""A model that is called with documents gives their fields; threads may share it."""

import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import layoutner
from layoutner.errors import DataError, SettingsError
from layoutner.fields.record import Rules
from layoutner.inference.labelled_page import label_page
from layoutner.inference.model import Model
from layoutner.inference.result import Result, make_results
from layoutner.objectives.evaluate import WordPrediction
from layoutner.pages.document import Document
from tests.builders.families import make_export
from tests.builders.pages import LABELS, lines, page

ANSWERS = [WordPrediction(*one) for one in ((1, 0.9), (2, 0.8), (0, 1.0), (3, 0.5), (0, 1.0), (3, 0.7))]


@pytest.fixture(scope="module")
def model(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Model:
    """An untrained model: it labels at random, and the same always."""
    folder = make_export(checkpoints["layoutlm"], tmp_path_factory.mktemp("models"), LABELS.tags)
    return layoutner.load_model(folder, device="cpu")


def document(name: str, group: str | None = None) -> Document:
    words = ("Anna", "Keller", "Sum", "9.00", "or", "1.234,50")
    boxes = tuple((100 * n, 10, 100 * n + 90, 30) for n in range(6))
    return Document(name, words, boxes, None, (600, 800), group=group)


def result(*documents: Document, rules: Rules | None = None) -> Result:
    """Of pages whose labels are chosen: SENDER, then two TOTALs."""
    pages = [label_page(one, ANSWERS, LABELS) for one in documents]
    (made,) = make_results(pages, LABELS.types, rules or Rules({}))
    return made


def test_a_result_has_the_most_confident_field_of_each_type() -> None:
    made = result(document("a-1", "a"), document("a-2", "a"))
    assert (made.document, len(made.pages), len(made.words)) == ("a", 2, 12)
    total = made.fields["TOTAL"]
    assert (total.text, total.value, total.confidence, total.page) == ("1.234,50", "1.234,50", 0.7, 1)
    assert total.box == (500, 10, 590, 30)
    assert [field.text for field in made.all_fields["TOTAL"]] == ["9.00", "1.234,50"] * 2
    assert (made.fields["SENDER"].text, made.fields["SENDER"].confidence) == ("Anna Keller", 0.9 * 0.8 * 1.0)
    assert made.words[0].label == "B-SENDER"
    assert made.to_dict()["fields"]["TOTAL"][3]["page"] == 2
    assert "a" in repr(made)


def test_a_type_that_a_document_lacks_is_a_key_error_that_says_which_there_are() -> None:
    made = result(document("a"))
    assert (list(made.fields), len(made.fields)) == (["SENDER", "TOTAL"], 2)
    with pytest.raises(KeyError, match="no field 'DATE'; there are: SENDER, TOTAL"):
        _ = made.fields["DATE"]
    assert made.fields.get("DATE") is None
    assert "DATE" not in made.fields


def test_a_result_is_drawn_page_by_page(tmp_path: Path) -> None:
    made = result(document("a-1", "a"), document("a-2", "a"))
    pictures = made.draw(tmp_path / "drawn.png")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["drawn-1.png", "drawn-2.png"]
    with Image.open(tmp_path / "drawn-2.png") as written:
        assert written.tobytes() == pictures[1].tobytes()
    assert len(result(document("b")).draw(str(tmp_path / "one.png"))) == 1
    assert (tmp_path / "one.png").is_file()
    with pytest.raises(DataError, match="cannot be written"):
        made.draw(tmp_path / "nowhere" / "x.png")


def test_a_model_is_called_with_a_file_a_page_or_a_list(model: Model, tmp_path: Path) -> None:
    for name in ("a", "b"):
        pages = [page(f"{name}-{n}", [f"{name}{n}-{m}" for m in range(12)], group="same") for n in range(2)]
        (tmp_path / f"{name}.jsonl").write_text(lines(*pages))
    paths = [tmp_path / "a.jsonl", str(tmp_path / "b.jsonl")]
    both = model(paths)
    assert [(one.document, len(one.pages)) for one in both] == [("same", 2), ("same", 2)]
    assert [one.to_dict() for one in both] == [model(path).to_dict() for path in paths]
    pages_of_a = layoutner.read_documents(paths[0])
    mixed = model([*pages_of_a, paths[1], document("c"), document("d")])
    assert [one.document for one in mixed] == ["same", "same", "c", "d"]
    assert mixed[0].to_dict() == both[0].to_dict()
    assert model(document("c")).document == "c"
    assert model([]) == []


def test_a_file_of_several_documents_is_extracted_not_called(model: Model, tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text(lines(*(page(f"p{n}", ["x", "y"]) for n in range(3))))
    with pytest.raises(DataError, match="many.jsonl: holds 3 documents; `model.extract` gives one result for each"):
        model(file)
    assert [one.document for one in model.extract(file)] == ["p0", "p1", "p2"]


def test_normalisers_and_the_least_confidence_are_arguments(model: Model) -> None:
    made = model(document("a"), normalisers={"TOTAL": "amount"}, min_confidence=1.0)
    fields = [field for found in made.all_fields.values() for field in found]
    assert fields
    assert all(field.problem for field in fields)
    with pytest.raises(SettingsError, match="normaliser of DATE: the model has no such type"):
        model(document("a"), normalisers={"DATE": "date"})
    with pytest.raises(SettingsError, match="'money' is not a normaliser"):
        model.extract([document("a")], normalisers={"TOTAL": "money"})


def test_eight_threads_get_what_one_gets(model: Model, tmp_path: Path) -> None:
    files = []
    for number in range(8):
        files.append(tmp_path / f"{number}.jsonl")
        files[-1].write_text(lines(page(f"p{number}", [f"w{number}-{m}" for m in range(5 + 20 * number)])))
    serial = [model(file).to_dict() for file in files]
    found: list[dict[int, Any]] = [{} for _ in files]
    start = threading.Barrier(len(files))

    def work(thread: int) -> None:
        start.wait()
        for turn in range(len(files)):
            number = (thread + turn) % len(files)
            found[thread][number] = model(files[number]).to_dict()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(files))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all([one[number] for number in range(len(files))] == serial for one in found)
