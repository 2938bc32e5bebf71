"""JSON lines to documents."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import ExifTags, Image

from layoutner.documents.duplicates import find_pairs
from layoutner.documents.roles import read_documents
from layoutner.errors import DataError, NoSplitError
from layoutner.files.image import PageImage
from layoutner.inference.labelled_page import label_page
from layoutner.objectives.evaluate import WordPrediction
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet
from layoutner.pages.page import Page, Problem, ReadStats, to_document
from layoutner.readers import jsonl
from layoutner.settings.data import DataSettings
from tests.builders.jsonl import page, write


def read(path: Path, role: str = "train") -> list[Document]:
    return read_documents(DataSettings(format="jsonl"), path, role)


def test_a_line_becomes_a_document(tmp_path: Path) -> None:
    Image.new("L", (20, 40)).save(tmp_path / "p.png")
    plain = {"document": "b", "page_size": [9, 9], "words": [{"text": "x", "box": [0, 0, 1, 1], "label": None}]}
    path = write(tmp_path / "x.jsonl", page(image="p.png"), plain, page("c", words=[]))
    first, second, third = read(path)
    assert first == Document(
        "a",
        ("Total", "9.00"),
        ((10, 20, 110, 40), (900, 20, 1000, 40)),
        ("B-KEY", "O"),
        (200, 400),
        PageImage(tmp_path / "p.png"),
        (4, 5),
    )
    assert (second.words, second.tags, second.segments, second.image) == (("x",), None, None, None)
    assert third.words == ()


def test_pixels_are_scaled_to_the_page(tmp_path: Path) -> None:
    words = [{"text": "x", "box": [20, 100, 200, 400]}]
    (document,) = read(write(tmp_path / "x.jsonl", page(unit="pixels", words=words)))
    assert document.boxes == ((100, 250, 1000, 1000),)


@pytest.mark.parametrize(("width", "height"), [(595.276, 841.89), (595.32, 841.92), (8.27, 11.69), (1, 1.414)])
def test_a_page_may_be_measured_in_points_or_inches(width: float, height: float, tmp_path: Path) -> None:
    words = [
        {"text": "all", "box": [0, 0, width, height]},
        {"text": "half", "box": [width / 2, height / 2, width, height]},
    ]
    (document,) = read(write(tmp_path / "d.jsonl", page(page_size=[width, height], unit="pixels", words=words)))
    assert document.page_size == (width, height)
    assert document.boxes == ((0, 0, 1000, 1000), (500, 500, 1000, 1000))


def test_a_line_that_is_not_utf_8_is_read_if_that_is_sure(tmp_path: Path) -> None:
    file = write(tmp_path / "d.jsonl", page("a"), page("Zürich", words=[]), page("東京", words=[]))
    good, western, eastern = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_bytes(good.encode() + western.encode("cp1252") + eastern.encode("euc_jp"))
    first, second, third = jsonl.read(file, "train")
    assert isinstance(first, Page)
    assert (first.name, first.notes) == ("a", ())
    assert isinstance(second, Page)
    what = "d.jsonl line 2: read as Windows-1252: not UTF-8: byte 0xFC at offset 15"
    assert (second.name, *map(str, second.notes)) == ("Zürich", what)
    assert isinstance(third, Problem)
    assert "line 3: not UTF-8: byte 0xC5 at offset 14 of the line; convert it, for instance with `iconv" in str(third)


def test_a_file_in_utf_16_is_refused_as_that(tmp_path: Path) -> None:
    file = write(tmp_path / "d.jsonl", page("a"), page("b"))
    file.write_bytes(file.read_bytes().decode().encode("utf-16"))
    with pytest.raises(DataError, match=r"^d.jsonl: is UTF-16, but JSON lines must be UTF-8; convert it, for instance"):
        read(file)


def test_blank_lines_a_byte_order_mark_and_a_missing_last_line_end(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(
        b"\xef\xbb\xbf" + json.dumps(page("a")).encode() + b"\r\n \n\n" + json.dumps(page("a")).encode()
    )
    assert [document.name for document in read(tmp_path / "x.jsonl")] == ["a", "a"]  # names may repeat
    write(tmp_path / "x.jsonl", page(), page())
    with (tmp_path / "x.jsonl").open("ab") as file:
        file.write(b"\n" + json.dumps(page()).encode()[:-9])
    with pytest.raises(DataError, match=r"1 problem\(s\) .* line 4: not JSON: .*; expected one document per line"):
        read(tmp_path / "x.jsonl")


def test_a_folder_holds_a_file_a_role_or_is_read_whole(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no .jsonl file"):
        read(tmp_path)
    write(tmp_path / "b.jsonl", page("b"))
    write(tmp_path / "a.jsonl", page("a"))
    assert [document.name for document in read(tmp_path, "eval")] == ["a", "b"]
    write(tmp_path / "train.jsonl", page("t"))
    assert [document.name for document in read(tmp_path, "train")] == ["t"]
    with pytest.raises(NoSplitError, match=r"holds train.jsonl, none of them for data.eval; .* or give a fraction"):
        read(tmp_path, "eval")


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (20, 40)).save("p.png")
    lines = json.dumps(page(image="p.png")) + "\n{}\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    document, problem = jsonl.read(Path("/dev/stdin"), "test")
    assert document.image == PageImage(Path("p.png"))  # type: ignore[union-attr]
    assert str(problem) == 'stdin line 2: "document" is None; expected the name of the page'


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"document": " "}, "\"document\" is ' '; expected the name of the page"),
        ({"page_size": [1]}, '"page_size" is [1]; expected [width, height], two numbers'),
        ({"page_size": [10**400, 5]}, "a page of 1000"),
        ({"page_size": [0, 5]}, "a page of 0 x 5; expected width and height, two numbers above 0 (pixels, or points"),
        ({"page_size": [-2.5, 5]}, "a page of -2.5 x 5; expected"),
        ({"page_size": [float("nan"), 5]}, "a page of nan x 5; expected"),
        ({"page_size": [5, float("inf")]}, "a page of 5 x inf; expected"),
        ({"page_size": [1e-300, 5]}, "a page of 1e-300 x 5; expected"),
        ({"page_size": [True, 5]}, "a page of True x 5; expected"),
        ({"page_size": ["595", 5]}, "a page of '595' x 5; expected"),
        ({"words": [{"text": "a", "box": [0, 0, True, 5]}]}, "box [0, 0, True, 5] is not four numbers"),
        ({"words": None}, '"words" is None; expected a list of words'),
        ({"unit": "inch"}, '"unit" is \'inch\'; expected "thousandths" or "pixels"'),
        ({"words": ["x"]}, "word 0: 'x' is not a word; expected an object"),
        ({"words": [{"text": 3}]}, 'word 0: "text" is 3; expected text'),
        ({"words": [{"text": "x", "box": [1, 2, 3, "4"]}]}, "word 0: \"box\" is [1, 2, 3, '4']; expected four numbers"),
        ({"words": [{"text": "x", "box": [0, 0, 1, 1], "label": 3}]}, 'word 0: "label" is 3; expected a label'),
        ({"words": [{"text": "x", "box": [0, 0, 1, 1], "label": "B-\ud800"}]}, r"label 'B-\ud800' is neither O nor"),
        (
            {"words": [{"text": "x", "box": [0, 0, 1, 1], "segment": "3"}]},
            "word 0: \"segment\" is '3'; expected a whole",
        ),
        ({"document": "\ud800"}, r"the page's name '\ud800': half a character"),
        ({"image": 3}, '"image" is 3; expected a path relative to'),
        ({"image": "../x.png"}, "'../x.png' leads out of"),
        ({"image": "/etc/passwd"}, "'/etc/passwd' leads out of"),
        ({"image": "a\0b"}, "is not a valid path"),
        ({"image": "\ud800"}, "is not a valid path"),
        ({"image": "p.png", "frame": -1}, '"frame" is -1; expected a whole number from 0'),
        ({"image": "p.png", "frame": True}, '"frame" is True; expected a whole number from 0'),
        ({"frame": 0}, '"frame" is 0, but the line has no "image"'),
        ({"image": "none.png"}, "none.png: [Errno 2] No such file"),
    ],
)
def test_a_line_that_is_no_document(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    (tmp_path / "x.jsonl").write_text(
        json.dumps(page()) + "\n" + json.dumps(page(**change)) + "\n" + json.dumps(page())
    )
    with pytest.raises(DataError) as caught:
        read(tmp_path / "x.jsonl")
    (line,) = str(caught.value).splitlines()
    assert ": x.jsonl line 2: " in line
    assert what in line
    assert len(line) < 1000


def test_a_line_without_end_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of a gigabyte, made as it is read: never is more asked for at once than the limit."""
    asked: list[int] = []

    def parts() -> Iterator[bytes]:
        yield json.dumps(page("first")).encode() + b"\n"
        left = 2**30
        while left:
            size = min(asked[-1], left)
            left -= size
            yield b"x" * size
        yield b"\n"
        yield json.dumps(page("last")).encode()
        yield b""

    source = parts()
    limit = 2**20
    monkeypatch.setattr(jsonl, "LONGEST_LINE", limit)

    class Stream(io.BytesIO):  # which has no descriptor
        def readline(self, size: int | None = -1, /) -> bytes:
            asked.append(size or -1)
            return next(source)

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Stream()))
    first, problem, last = jsonl.read(jsonl.STDIN, "test")
    assert max(asked) == limit + 1
    assert (first.name, last.name) == ("first", "last")  # type: ignore[union-attr]
    assert problem == Problem("stdin line 2", "unreadable", "longer than 1 MiB; expected one document per line")


def test_the_longest_line_is_still_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.jsonl", page())
    monkeypatch.setattr(jsonl, "LONGEST_LINE", path.stat().st_size)
    assert len(read(path)) == 1
    monkeypatch.setattr(jsonl, "LONGEST_LINE", path.stat().st_size - 1)
    with pytest.raises(DataError, match="x.jsonl line 1: longer than"):
        read(path)


def test_what_predict_writes_is_read_again(tmp_path: Path) -> None:
    from layoutner.inference.labelled_page import label_page
    from layoutner.objectives.evaluate import WordPrediction
    from layoutner.pages.page_object import json_line

    words = ("שלום", "🙂", "x\u2028y")
    document = Document("p\u200d1", words, ((0, 0, 9, 9), (10, 0, 20, 9), (30, 0, 40, 9)), None, (7, 8))
    answers = [WordPrediction(label, 0.5) for label in (1, 2, 0)]
    line = json_line(label_page(document, answers, LabelSet("BIO", ("X",))).to_dict(tmp_path))
    (tmp_path / "x.jsonl").write_text(line if line.endswith("\n") else line + "\n", encoding="utf-8")
    (again,) = read(tmp_path / "x.jsonl")
    assert again == Document(document.name, words, document.boxes, ("B-X", "I-X", "O"), (7, 8))


def test_two_pages_of_one_file_are_two_pictures(tmp_path: Path) -> None:
    first, second = Image.new("L", (20, 40), 10), Image.new("L", (20, 40), 200)
    first.save(tmp_path / "two.tif", save_all=True, append_images=[second])
    pages = [page(name, image="two.tif", frame=frame) for name, frame in (("a", 0), ("b", 1), ("c", 1))]
    for each, text in zip(pages, "abc", strict=True):
        each["words"][0]["text"] = text  # so that nothing but the picture is the same
    documents = read(write(tmp_path / "x.jsonl", *pages))
    assert [document.image for document in documents] == [PageImage(tmp_path / "two.tif", n) for n in (0, 1, 1)]
    assert find_pairs(documents) == [(1, 2, True)]
    greys = [label_page(d, [WordPrediction(0, 1.0)] * 2, LabelSet("BIO", ("X",))).to_dict(tmp_path) for d in documents]
    assert [(made["image"], made["frame"]) for made in greys] == [("two.tif", 0), ("two.tif", 1), ("two.tif", 1)]
    again = read(write(tmp_path / "again.jsonl", *greys))
    assert [document.image for document in again] == [document.image for document in documents]
    with pytest.raises(DataError, match=r"x.jsonl line 1: page image .*two.tif: holds 2 pages"):
        read(write(tmp_path / "x.jsonl", page(image="two.tif")))
    with pytest.raises(DataError, match=r'"frame" is 2, and the file has the frames 0 to 1'):
        read(write(tmp_path / "x.jsonl", page(image="two.tif", frame=2)))


def test_a_linked_folder_of_images_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    Image.new("L", (20, 40)).save(tmp_path / "elsewhere" / "p.png")
    (tmp_path / "data" / "images").symlink_to(tmp_path / "elsewhere")
    (document,) = read(write(tmp_path / "data" / "x.jsonl", page(image="images/p.png")))
    assert document.image == PageImage(tmp_path / "data" / "images" / "p.png")
    (tmp_path / "data" / "circle").symlink_to(tmp_path / "data" / "circle")
    with pytest.raises(DataError, match="'circle/p.png' is not a valid path"):
        read(write(tmp_path / "data" / "x.jsonl", page(image="circle/p.png")))


@pytest.mark.parametrize(
    ("size", "noted"), [([200, 400], False), ([50, 100], False), ([200, 404], False), ([200, 410], True)]
)
def test_a_page_of_other_proportions_than_its_image_is_noted(size: list[int], noted: bool, tmp_path: Path) -> None:
    Image.new("L", (200, 400)).save(tmp_path / "p.png")
    file = write(tmp_path / "x.jsonl", page(image="p.png") | {"page_size": size})
    (problems,) = [
        to_document(found, "none", ReadStats())[1] for found in jsonl.read(file, "train") if isinstance(found, Page)
    ]
    what = f"x.jsonl line 1: a page of {size[0]} x {size[1]}, and its image p.png is 200 x 400"
    assert [(str(problem), problem.fatal) for problem in problems] == ([(what, False)] if noted else [])


def test_a_photo_that_exif_turns_has_the_size_that_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("L", (400, 200)).save(tmp_path / "p.jpg", exif=exif)
    file = tmp_path / "x.jsonl"
    for size, kinds in (([200, 400], []), ([400, 200], ["page size is not the image's"])):
        write(file, page(image="p.jpg") | {"page_size": size})
        (found,) = jsonl.read(file, "train")
        assert isinstance(found, Page)
        document, problems = to_document(found, "none", ReadStats())
        assert [problem.kind for problem in problems] == kinds
        assert document is not None
        assert document.page_size == tuple(size)  # boxes are measured on it, whatever the image is
