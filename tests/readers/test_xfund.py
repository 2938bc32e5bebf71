"""XFUND files to documents."""

from pathlib import Path

import pytest
from PIL import Image

from layoutner.documents.roles import read_documents
from layoutner.errors import DataError, NoSplitError
from layoutner.files.image import PageImage
from layoutner.pages.document import Document
from layoutner.pages.page import Page, Problem, ReadStats
from layoutner.readers import READERS
from layoutner.settings.data import DataSettings
from tests.builders.xfund import entity, form, write


def read(path: Path, role: str = "train") -> list[Document]:
    return read_documents(DataSettings(format="xfund"), path, role)


def test_a_file_in_gb2312_is_read_and_said_once(tmp_path: Path) -> None:
    file = write(tmp_path, "zh.train.json", form("a"), form("b"))
    expected = read(file)
    content = file.read_text(encoding="utf-8").replace("王", "王\uff0c").encode("gb2312")
    file.write_bytes(content)
    stats = ReadStats()
    documents = read_documents(DataSettings(format="xfund"), tmp_path, "train", stats)
    assert [document.words[-2] for document in documents] == ["王\uff0c", "王\uff0c"]
    assert [document.words[:-2] for document in documents] == [document.words[:-2] for document in expected]
    (note,) = stats.notes
    assert note.startswith("zh.train.json: read as GB2312: not UTF-8: byte 0x")


def test_a_form_becomes_words_tags_and_segments(tmp_path: Path) -> None:
    (document,) = read(write(tmp_path, "zh.train.json", form()))
    assert document.name == "zh_train_0"
    assert document.words == ("申", "请", "姓", "名", ":", "王", "第1页")
    assert document.tags == ("B-HEADER", "I-HEADER", "B-QUESTION", "I-QUESTION", "I-QUESTION", "B-ANSWER", "O")
    assert document.segments == (0, 0, 1, 1, 1, 2, 3)
    assert document.boxes[0] == (500, 100, 750, 200)
    assert document.boxes[-1] == (0, 950, 1000, 1000)
    assert document.page_size == (200, 400)
    assert document.image is None


def test_a_role_is_a_split_of_every_language(tmp_path: Path) -> None:
    write(tmp_path, "zh.train.json", form("zh_train_0"), form("zh_train_1"))
    write(tmp_path, "ja.train.json", form("ja_train_0"))
    write(tmp_path, "zh.val.json", form("zh_val_0"))
    assert [document.name for document in read(tmp_path)] == ["ja_train_0", "zh_train_0", "zh_train_1"]
    assert [document.name for document in read(tmp_path, "eval")] == ["zh_val_0"]
    assert [document.name for document in read(tmp_path / "zh.train.json", "test")] == ["zh_train_0", "zh_train_1"]
    with pytest.raises(
        NoSplitError, match=r"holds ja.train.json, zh.train.json, zh.val.json, none of them for data.test"
    ):
        read(tmp_path, "test")
    (tmp_path / "zh.val.json").unlink()
    with pytest.raises(NoSplitError, match=r"none of them for data.eval; .* fraction of the training documents"):
        read(tmp_path, "eval")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="not an XFUND folder"):
        read(tmp_path / "empty")


def test_page_images_stand_beside_the_file_or_in_its_folder(tmp_path: Path) -> None:
    file = write(tmp_path, "zh.train.json", form("a"), form("b"), form("c"))
    Image.new("L", (20, 40)).save(tmp_path / "a.jpg")
    (tmp_path / "zh.train").mkdir()
    Image.new("L", (20, 40)).save(tmp_path / "zh.train" / "b.jpg")
    found = [PageImage(tmp_path / "a.jpg"), PageImage(tmp_path / "zh.train" / "b.jpg"), None]
    assert [document.image for document in read(file)] == found
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"zh.train.json document 0: page image .*a.jpg: cannot identify image file"):
        read(file)


def test_a_broken_document_is_a_problem_and_the_others_go_on(tmp_path: Path) -> None:
    escape = {**form("f"), "img": {"fname": "../../secret.png", "width": 1, "height": 1}}
    odd = [
        {**form("b"), "document": 5},
        7,
        {**form("d"), "id": 3},
        form("e", entity("x", "a", [[0, 0, 201, 9]])),
        escape,
    ]
    file = write(tmp_path, "zh.train.json", form("a"), *odd, form("g"))
    write(tmp_path, "ja.train.json")
    (tmp_path / "ja.train.json").write_text('{"documents": [')
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    text = str(caught.value)
    assert "6 problem(s)" in text
    assert "ja.train.json: " in text
    assert "zh.train.json document 1: not an XFUND document: TypeError: 'int' object is not iterable" in text
    assert "zh.train.json document 2: not an XFUND document" in text
    assert "zh.train.json document 3: not an XFUND document: TypeError: id and fname must be text" in text
    assert "zh.train.json document 4: word 0 'a': box [0, 0, 1005, 22] leaves the page" in text
    assert "zh.train.json document 5: '../../secret.png' leads out of" in text
    settings = DataSettings(format="xfund", bad_pages="skip")
    assert [document.name for document in read_documents(settings, file, "train")] == ["a", "g"]


@pytest.mark.parametrize("place", ["images", "image", "img", "zh.train", "."])
def test_an_image_with_another_suffix_is_found_too(place: str, tmp_path: Path) -> None:
    file = write(tmp_path, "zh.train.json", form("a"))
    (tmp_path / place).mkdir(exist_ok=True)
    Image.new("L", (20, 40)).save(tmp_path / place / "a.PNG")
    assert [document.image for document in read(file)] == [PageImage(tmp_path / place / "a.PNG")]
    # The name in the file goes before one that only looks like it.
    Image.new("L", (20, 40)).save(tmp_path / place / "a.jpg")
    assert [document.image for document in read(file)] == [PageImage(tmp_path / place / "a.jpg")]


def test_images_of_which_none_is_used_are_noted(tmp_path: Path) -> None:
    write(tmp_path, "zh.train.json", form("a"))
    (tmp_path / "images").mkdir()
    Image.new("L", (20, 40)).save(tmp_path / "images" / "other.jpg")
    page, note = READERS["xfund"](tmp_path, "train")
    assert isinstance(page, Page)
    assert page.image is None
    assert isinstance(note, Problem)
    assert (note.kind, note.fatal) == ("images not used", False)
    assert "images: none of its 1 images is used, such as other.jpg" in str(note)
    Image.new("L", (20, 40)).save(tmp_path / "images" / "a.jpg")
    assert [type(found) for found in READERS["xfund"](tmp_path, "train")] == [Page]
