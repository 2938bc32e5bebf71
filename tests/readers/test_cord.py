"""CORD receipts of both versions."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from layoutner.errors import DataError, NoSplitError
from layoutner.files.image import PageImage
from layoutner.pages.document import Document
from layoutner.pages.labels import to_spans
from layoutner.pages.page import Page, Problem, ReadStats, to_document
from layoutner.readers import READERS
from layoutner.readers.cord import read
from tests.builders.cord import receipt, word, write


def documents(path: Path, role: str = "train") -> list[Document | list[Problem]]:
    made: list[Document | list[Problem]] = []
    for page in READERS["cord"](path, role):
        document, problems = (None, [page]) if isinstance(page, Problem) else to_document(page, "none", ReadStats())
        made.append(document or problems)
    return made


def one(path: Path, role: str = "train") -> Document:
    (document,) = documents(path, role)
    assert isinstance(document, Document), document
    return document


def problem(path: Path) -> str:
    (problems,) = documents(path)
    assert isinstance(problems, list), problems
    return str(problems[0])


def test_a_receipt_in_another_encoding_is_read_and_said(tmp_path: Path) -> None:
    file = write(tmp_path, receipt()) / "json" / "a.json"
    text = json.dumps(json.loads(file.read_text().replace("Tea", "Caf\u00e9")), ensure_ascii=False)
    file.write_bytes(text.encode("cp1252"))
    (page,) = READERS["cord"](file, "train")
    assert isinstance(page, Page)
    assert "Café" in [word.text for word in page.words]
    assert [str(note)[:36] for note in page.notes] == ["a.json: read as Windows-1252: not UT"]


def test_lines_are_entities_and_segments(tmp_path: Path) -> None:
    document = one(write(tmp_path, receipt()))
    assert document.words == ("Nasi", "Goreng", "x", "thanks", "Tea", "75,000")
    assert document.tags == ("B-MENU.NM", "I-MENU.NM", "O", "O", "B-MENU.NM", "B-TOTAL.TOTAL_PRICE")
    assert document.segments == (0, 0, 1, 1, 2, 4)
    assert document.boxes[:2] == ((50, 50, 300, 100), (350, 50, 600, 100))
    assert (document.name, document.page_size, document.image) == ("a", (200, 400), None)


def test_the_image_tells_the_size_where_it_is_there(tmp_path: Path) -> None:
    write(tmp_path, receipt() | {"meta": None})
    assert "a.json: not a CORD receipt: TypeError" in problem(tmp_path)
    (tmp_path / "image").mkdir()
    Image.new("L", (400, 80)).save(tmp_path / "image" / "a.png")
    document = one(tmp_path)
    assert (document.page_size, document.image) == ((400, 80), PageImage(tmp_path / "image" / "a.png"))
    assert document.boxes[0] == (25, 250, 150, 500)
    (tmp_path / "image" / "a.png").write_bytes(b"no image")
    assert "a.png" in problem(tmp_path)


def test_a_row_of_the_hub_is_the_same_receipt(tmp_path: Path) -> None:
    plain = one(write(tmp_path / "plain", receipt()))
    assert one(write(tmp_path / "row", {"ground_truth": json.dumps(receipt())})) == plain
    assert "not a CORD receipt" in problem(write(tmp_path / "bad", {"ground_truth": "{"}))
    assert "not a CORD receipt" in problem(write(tmp_path / "worse", {"ground_truth": 3}))


def test_a_receipt_without_categories_is_a_page_to_label(tmp_path: Path) -> None:
    content = receipt()
    for line in content["valid_line"]:
        line.pop("category")
    assert one(write(tmp_path, content)).tags is None
    content["valid_line"][0]["category"] = "menu.nm"
    assert "some words have a label and some have none" in problem(write(tmp_path, content))


def test_roles_have_their_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds neither json/ nor train/json/"):
        documents(tmp_path)
    for name in ("train", "dev", "test"):
        write(tmp_path / name, receipt(), f"of-{name}")
    assert [one(tmp_path, role).name for role in ("train", "eval", "test")] == ["of-train", "of-dev", "of-test"]
    assert one(tmp_path / "dev", "train").name == "of-dev"
    assert one(tmp_path / "dev" / "json", "train").name == "of-dev"
    assert one(tmp_path / "dev" / "json" / "of-dev.json", "test").name == "of-dev"
    (tmp_path / "test" / "json" / "of-test.json").unlink()
    with pytest.raises(DataError, match=r"test/json: holds no .json file"):
        documents(tmp_path, "test")
    (tmp_path / "dev" / "json" / "of-dev.json").unlink()
    (tmp_path / "dev" / "json").rmdir()
    with pytest.raises(NoSplitError, match="holds train and test, none of them for data.eval"):
        documents(tmp_path, "eval")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "TypeError"),
        (3, "TypeError"),
        ({}, "KeyError: 'meta'"),
        (receipt() | {"valid_line": [{"words": [], "category": "\ud800"}]}, r"category '\ud800' is not a name"),
        (receipt() | {"valid_line": [{"words": [{"text": "x"}], "category": "menu.nm"}]}, "KeyError: 'quad'"),
        (receipt() | {"valid_line": ["x"]}, "AttributeError"),
        (receipt() | {"valid_line": [{"words": [], "category": 3}]}, "TypeError: category '3' is not a name"),
        (receipt() | {"valid_line": [{"words": [word(3)]}]}, "a word must be text, not int"),
        (receipt() | {"valid_line": [{"words": [word("x", -10)]}]}, "leaves the page"),
        (receipt() | {"meta": {"image_size": {"width": "1", "height": 9}}}, "a page of '1' x 9; expected"),
        (receipt() | {"meta": {"image_size": {"width": 10**300, "height": 9}}}, "a page of 1000"),
    ],
)
def test_what_is_not_cord_is_a_problem_of_its_page(tmp_path: Path, content: object, message: str) -> None:
    first, second = documents(write(write(tmp_path, content), receipt(), "b"))
    assert isinstance(first, list)
    assert message in str(first[0])
    assert "a.json" in str(first[0])
    assert isinstance(second, Document)


@pytest.mark.parametrize(
    ("fix", "pages", "words", "entities", "repaired"),
    [
        ("none", 594, 14190, 8171, {}),
        ("clamp", 600, 14344, 8267, {"box(es) clamped, box off the page (data.invalid_boxes = clamp)": 11}),
        ("drop", 600, 14333, 8266, {"word(s) dropped, box off the page (data.invalid_boxes = drop)": 11}),
    ],
)
def test_the_real_receipts(
    real_data: Path, fix: Any, pages: int, words: int, entities: int, repaired: dict[str, int]
) -> None:
    stats = ReadStats()
    types: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    seen = [0, 0]
    for page in read(real_data / "cord_v1", "train"):
        assert isinstance(page, Page), page
        document, found = to_document(page, fix, stats)
        problems.update(problem.kind for problem in found)
        if document is not None:
            types.update(span.type for span in to_spans(document.tags or ()))
            seen = [seen[0] + 1, seen[1] + len(document.words)]
    assert (*seen, types.total()) == (pages, words, entities)
    # Of the 30 published categories menu.etc is in none of these lines.
    assert len(types) == 29
    assert stats.repaired == {"blank word(s) dropped": 1, **repaired}
    assert problems == ({"box off the page": 11} if fix == "none" else {})
    if fix == "clamp":
        assert types.most_common(3) == [("MENU.PRICE", 1560), ("MENU.NM", 1558), ("MENU.CNT", 1461)]


@pytest.mark.parametrize("place", ["image", "images", "img", "json"])
def test_an_image_of_any_suffix_is_found_in_any_usual_folder(place: str, tmp_path: Path) -> None:
    folder = write(tmp_path, receipt())
    (folder / place).mkdir(exist_ok=True)
    Image.new("L", (200, 400)).save(folder / place / "a.JPEG")
    (document,) = documents(folder)
    assert isinstance(document, Document)
    assert document.image == PageImage(folder / place / "a.JPEG")


def test_an_image_that_lies_on_its_side_is_noted_and_its_size_taken(tmp_path: Path) -> None:
    folder = write(tmp_path, receipt())
    (folder / "image").mkdir()
    Image.new("L", (400, 200)).save(folder / "image" / "a.png")
    (page,) = READERS["cord"](folder, "train")
    assert isinstance(page, Page)
    document, problems = to_document(page, "none", ReadStats())
    assert document is not None
    assert document.page_size == (400, 200)
    assert [(str(problem), problem.fatal) for problem in problems] == [
        ("a.json: a page of 200 x 400, and its image a.png is 400 x 200", False)
    ]
