"""SROIE receipts: lines to words, key values to labels, and what is said where one is not found."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from layoutner.errors import DataError, NoSplitError
from layoutner.files.image import PageImage
from layoutner.pages.document import Document
from layoutner.pages.key_values import find_values
from layoutner.pages.labels import to_spans
from layoutner.pages.page import Page, Problem, ReadStats, Word, to_document
from layoutner.readers import READERS
from tests.builders.sroie import SIZE, line, receipt


def pages(path: Path, role: str = "train") -> list[Page | Problem]:
    return list(READERS["sroie"](path, role))


def document(path: Path) -> tuple[Document, list[Problem]]:
    (page,) = pages(path)
    assert isinstance(page, Page), page
    made, problems = to_document(page, "none", ReadStats())
    assert made is not None, problems
    return made, problems


def entities(path: Path) -> list[tuple[str, str]]:
    made, _ = document(path)
    return [(span.type, " ".join(made.words[span.start : span.end])) for span in to_spans(made.tags or ())]


def find(lines: list[str], key: str, value: str) -> tuple[str, str] | None:
    """(text, how) of a value in lines below each other; "a | b" are two lines beside each other."""
    words = []
    for row, text in enumerate(lines):
        for column, part in enumerate(text.split(" | ")):
            number = row * 10 + column
            words += [Word(word, (100 * column, 40 * row, 90, 40 * row + 30), None, number) for word in part.split()]
    match = find_values(words, {key: value}).get(key)
    return match and (" ".join(word.text for word in words[match.start : match.end]), match.how)


def test_a_receipt_is_labelled(tmp_path: Path) -> None:
    made, problems = document(receipt(tmp_path))
    assert problems == []
    assert entities(tmp_path) == [
        ("COMPANY", "BOOK SHOP (JOHOR) SDN BHD"),
        ("ADDRESS", "NO.53 55,57 & 59, JALAN SAGU 18, 81100 JOHOR BAHRU, JOHOR."),
        ("DATE", "DATE:25/12/2018"),
        ("TOTAL", "RM9.00"),
    ]
    assert made.page_size == SIZE
    assert made.image == PageImage(tmp_path / "img" / "a.jpg")
    assert made.segments is not None
    assert Counter(made.segments) == {0: 5, 1: 7, 2: 4, 3: 2, 4: 2, 5: 2, 6: 2}


def test_a_line_is_shared_out_by_characters_spaces_counted(tmp_path: Path) -> None:
    receipt(tmp_path, ["ab  c, d "], None)
    (page,) = pages(tmp_path)
    assert isinstance(page, Page)
    # 20..380 over the eight characters of "ab  c, d": 45 pixels each.
    assert [(word.text, word.box) for word in page.words] == [
        ("ab", (20, 20, 110, 50)),
        ("c,", (200, 20, 290, 50)),
        ("d", (335, 20, 380, 50)),
    ]
    made, _ = document(tmp_path)
    assert made.tags is None
    assert made.segment_boxes() == ((50, 20, 950, 50),) * 3


def test_the_corners_may_lean(tmp_path: Path) -> None:
    receipt(tmp_path, [], None)
    (tmp_path / "box" / "a.csv").write_text("10,20,90,10,100,40,12,50,word\n\n")
    (page,) = pages(tmp_path)
    assert isinstance(page, Page)
    assert [word.box for word in page.words] == [(10, 10, 100, 50)]


@pytest.mark.parametrize(
    ("lines", "key", "value", "expected"),
    [
        (["A SHOP", "a  shop ltd"], "company", "A Shop Ltd.", ("a shop ltd", "other punctuation")),
        (["THE SHOP LTD", "SHOP LTD"], "company", "shop ltd", ("SHOP LTD", "exact")),
        (["SHOPPING", "SHOP"], "company", "shop", ("SHOP", "exact")),
        (["RSTORAN WAN SHENG", "No. 2"], "company", "RESTORAN WAN SHENG", ("RSTORAN WAN SHENG", "approximate")),
        (["TAX INVOICE", "No. 2"], "company", "RESTORAN WAN SHENG", None),
        (["1, HIGH STREET", "TEL 5", "LONDON"], "address", "1, High Street London", None),
        (["14, HIGH STREET", "4 High Street"], "address", "4, High Street", ("4 High Street", "other punctuation")),
        (["printed 1/2/18", "DATE: | 1/2/18"], "date", "1/2/18", ("1/2/18", "exact")),
        (["11/2/18 1/2/180 1/2/18T9"], "date", "1/2/18", ("1/2/18T9", "exact")),
        (["2018-12-25"], "date", "25/12/2018", None),
        (["9.000 19.00 1,9.00 9.00"], "total", "9.00", ("9.00", "exact")),
        (["90.0", "900"], "total", "9.00", None),
        (["9", ".00"], "total", "9.00", None),
        (["1,007.50"], "total", "RM 1007.50", ("1,007.50", "other punctuation")),
        (["43.70"], "total", "43.7", ("43.70", "other punctuation")),
        (["43.70"], "total", "none", None),
        (["x"], "company", "...", None),
        (["straße"], "company", "STRASSE", ("straße", "exact")),
    ],
)
def test_values_are_found(lines: list[str], key: str, value: str, expected: tuple[str, str] | None) -> None:
    assert find(lines, key, value) == expected


@pytest.mark.parametrize(
    ("lines", "row"),
    [
        (["Total | 5.00", "Grand total | 5.00", "Cash | 5.00", "Change | 0.00"], 1),
        (["Tea | 5.00", "Sub-total | 5.00", "TOTAL | 5.00", "Total excl. tax | 5.00", "5.00"], 2),
        (["Tea | 5.00", "Subtotal | 5.00", "Net amount | 5.00", "Cash | 5.00"], 2),
        (["Tea | 5.00", "Subtotal | 5.00", "Cake | 5.00"], 1),
        (["Tea | 5.00", "Cake | 5.00"], 1),
    ],
)
def test_of_several_totals_the_one_that_people_mean(lines: list[str], row: int) -> None:
    words = []
    for number, text in enumerate(lines):
        for column, part in enumerate(text.split(" | ")):
            box = (100 * column, 40 * number, 100 * column + 90, 40 * number + 30)
            words += [Word(word, box, None, 2 * number + column) for word in part.split()]
    match = find_values(words, {"total": "5.00"})["total"]
    assert words[match.start].box[1] == 40 * row


def test_no_word_has_two_values() -> None:
    words = [Word(word, (0, 0, 9, 9), None, 0) for word in ("SHOP", "12", "SHOP")]
    found = find_values(words, {"company": "shop", "address": "shop", "total": "12", "date": "12"})
    assert {key: (match.start, match.end) for key, match in found.items()} == {
        "company": (0, 1),
        "address": (2, 3),
        "date": (1, 2),
    }


def test_what_is_not_found_is_said_and_not_fatal(tmp_path: Path) -> None:
    values = {"company": "BOOK SHOP (JOHOP) SDN BHD", "date": "1/1/2001", "total": " ", "colour": 3}
    made, problems = document(receipt(tmp_path, values=values))
    assert [(problem.kind, problem.fatal, str(problem)) for problem in problems] == [
        (
            "value found approximately",
            False,
            "a.csv: word 0 'BOOK': company 'BOOK SHOP (JOHOP) SDN BHD' was taken to be 'BOOK SHOP (JOHOR) SDN BHD'",
        ),
        ("value not given", False, "a.csv: address is missing or empty"),
        ("value not found", False, "a.csv: date '1/1/2001' is not on the page"),
        ("value not given", False, "a.csv: total is missing or empty"),
    ]
    assert Counter(made.tags) == {"B-COMPANY": 1, "I-COMPANY": 4, "O": 19}


def test_page_sizes_stand_in_for_images(tmp_path: Path) -> None:
    folder = receipt(tmp_path / "train", image=False)
    receipt(folder, name="b", image=False)
    receipt(folder, name="c")
    (tmp_path / "page_sizes.tsv").write_text("key\twidth_px\theight_px\na\t500\t600\nc\t1\t1\n")
    first, second, third = pages(tmp_path)
    assert isinstance(first, Page)
    assert (first.page_size, first.image) == ((500, 600), None)
    assert isinstance(second, Problem)
    assert "b.csv: the size of its page is not known: add img/b.jpg, or a line to page_sizes.tsv" in str(second)
    assert isinstance(third, Page)
    assert third.page_size == SIZE
    (folder / "page_sizes.tsv").write_text("key\twidth_px\theight_px\na\t500\n")
    with pytest.raises(DataError, match=r"train/page_sizes.tsv line 2: 'a\\t500' is not key, width, height"):
        pages(tmp_path)


def test_a_receipt_in_gbk_is_read_and_said(tmp_path: Path) -> None:
    receipt(tmp_path)
    lines = "".join(line(text, row) + "\n" for row, text in enumerate(["BOOK SHOP", "INVOICE NO\uff1aPEGIV-1030765"]))
    (tmp_path / "box" / "a.csv").write_bytes(lines.encode("gbk"))
    made, problems = document(tmp_path)
    assert made.words == ("BOOK", "SHOP", "INVOICE", "NO\uff1aPEGIV-1030765")
    (note,) = (problem for problem in problems if problem.kind == "not UTF-8")
    first = lines.encode("gbk").index(0xA3)
    assert str(note) == f"a.csv: read as GB2312: not UTF-8: byte 0xA3 at offset {first}"
    assert not note.fatal


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_are_those_of_any_system(end: str, tmp_path: Path) -> None:
    receipt(tmp_path)
    text = (tmp_path / "box" / "a.csv").read_text()
    expected = document(tmp_path)
    (tmp_path / "box" / "a.csv").write_bytes(text.replace("\n", end).encode("utf-16"))
    assert document(tmp_path) == expected


def test_page_sizes_need_not_be_whole_numbers(tmp_path: Path) -> None:
    for name in "abc":
        receipt(tmp_path, name=name, image=False)
    (tmp_path / "page_sizes.tsv").write_text("key\twidth_px\theight_px\na\t500.5\t600\nb\t500\tinf\nc\t500\t600\n")
    first, second, third = (
        to_document(page, "none", ReadStats()) for page in pages(tmp_path) if isinstance(page, Page)
    )
    assert [made.page_size for made, _ in (first, third) if made is not None] == [(500.5, 600), (500, 600)]
    assert second[0] is None
    assert "a page of 500 x inf; expected width and height, two numbers above 0" in str(second[1][0])


def test_roles_have_their_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds neither box/ nor train/box/"):
        pages(tmp_path)
    receipt(tmp_path / "train", name="one")
    receipt(tmp_path / "test", name="two", values=None)
    assert [page.name for page in pages(tmp_path, "train") if isinstance(page, Page)] == ["one"]
    assert [page.name for page in pages(tmp_path, "test") if isinstance(page, Page)] == ["two"]
    assert [page.name for page in pages(tmp_path / "test", "eval") if isinstance(page, Page)] == ["two"]
    assert [page.name for page in pages(tmp_path / "test/box/two.csv") if isinstance(page, Page)] == ["two"]
    with pytest.raises(NoSplitError, match="holds train and test, none of them for data.eval; .* fraction"):
        pages(tmp_path, "eval")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("box/a.csv", b"1,2,3\n", "line 1 is not eight corners and a text: '1,2,3'"),
        ("box/a.csv", b"\n1,2,3,4,5,6,7,x,word", "line 2 is not eight corners and a text: '1,2,3,4,5,6,7,x,word'"),
        ("box/a.csv", b"1,2,3,4,5,6,7,8,\xff", "cannot be read: not UTF-8: byte 0xFF at offset 16; convert it, for"),
        ("entities/a.json", b'{"total": "\xff\xff"}', "cannot be read: not UTF-8: byte 0xFF at offset 11; convert it"),
        ("box/a.csv", b" " * (2**16 + 1), "its 65,537 bytes are more than 65,536"),
        ("entities/a.json", b"[1", "not JSON"),
        ("entities/a.json", b"[1]", "expected an object of key values, not list"),
        ("entities/a.json", b'{"total": 9.0}', "total = 9.0 is not text"),
        ("img/a.jpg", b"no image", "page image"),
    ],
)
def test_a_bad_file_is_a_problem_of_its_page(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    receipt(receipt(tmp_path), name="b")
    (tmp_path / file).write_bytes(content)
    first, second = pages(tmp_path)
    assert isinstance(first, Problem)
    assert first.source == "a.csv"
    assert message in first.what
    assert Path(file).name in first.what
    assert isinstance(second, Page)


def test_a_page_of_nothing_but_matches_comes_to_an_end() -> None:
    words = [Word(text, (0, 0, 9, 9), None, 0) for text in ["11"] * 4001 + ["22"] * 4000]
    found = find_values(words, {"company": "11" * 4001, "address": "2" * 4000 + "3", "date": "2222", "total": "22"})
    assert {key: (match.start, match.end) for key, match in found.items()} == {
        "company": (0, 4001),
        "date": (4001, 4003),
        "total": (4003, 4004),
    }


def test_the_real_receipts(real_data: Path) -> None:
    found: Counter[str] = Counter()
    notes: Counter[tuple[str, str]] = Counter()
    stats = ReadStats()
    words = 0
    for page in pages(real_data / "sroie2019", "train"):
        assert isinstance(page, Page), page
        made, problems = to_document(page, "none", stats)
        assert made is not None, problems
        assert made.tags is not None
        words += len(made.words)
        found.update(span.type for span in to_spans(made.tags))
        notes.update((problem.kind, problem.what.split()[0]) for problem in problems)
    # A plain search for the letters and digits over the joined lines finds 613, 623, 590 and 625 of the 626.
    assert found == {"COMPANY": 625, "DATE": 623, "ADDRESS": 623, "TOTAL": 625}
    assert notes == {
        ("value found approximately", "company"): 12,
        ("value found approximately", "address"): 33,
        ("value not found", "company"): 1,
        ("value not found", "date"): 3,
        ("value not found", "address"): 2,
        ("value not given", "address"): 1,
        ("value not given", "total"): 1,
    }
    assert words == 72390
    assert not stats.repaired


@pytest.mark.parametrize("suffix", [".txt", ".json"])
def test_a_folder_laid_out_as_bbox_labels_images_is_read(suffix: str, tmp_path: Path) -> None:
    folder = receipt(tmp_path / "train")
    expected, _ = document(folder)
    for old, new in (("box", "bbox"), ("entities", "labels"), ("img", "images")):
        (folder / old).rename(folder / new)
    (folder / "labels" / "a.json").rename(folder / "labels" / f"a{suffix}")
    (folder / "images" / "a.jpg").rename(folder / "images" / "a.JPG")
    for path in (tmp_path, folder):
        found, _ = document(path)
        assert found == replace(expected, image=PageImage(folder / "images" / "a.JPG"))
        assert {span.type for span in to_spans(found.tags or ())} == {"COMPANY", "DATE", "ADDRESS", "TOTAL"}


@pytest.mark.parametrize("content", ["0 0.5 0.5 0.1 0.1", '["COMPANY"]', '{"words": []}'])
def test_labels_of_another_kind_are_refused_by_name(content: str, tmp_path: Path) -> None:
    folder = receipt(tmp_path, values=None)
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text(content)
    (problem,) = pages(folder)
    assert isinstance(problem, Problem)
    assert problem.fatal
    assert "labels/a.txt: " in str(problem)
    assert str(problem).endswith("; labels/ must hold the key values of receipts, like entities/")


def test_a_stated_size_of_other_proportions_than_the_image_is_noted(tmp_path: Path) -> None:
    folder = receipt(tmp_path)
    (folder / "page_sizes.tsv").write_text("key\twidth\theight\na\t1000\t400\n")
    found, notes = document(folder)
    assert found.page_size == SIZE
    assert "a.csv: a page of 1000 x 400, and its image a.jpg is 400 x 1000" in map(str, notes)
