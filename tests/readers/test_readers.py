"""FUNSD and unilm files to documents, and everything that can be wrong with them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from layoutner.documents.roles import read_corpus, read_documents
from layoutner.documents.splits import split
from layoutner.errors import DataError, NoSplitError, SettingsError
from layoutner.files.image import PageImage
from layoutner.pages.document import Document
from layoutner.pages.labels import read_labels, to_spans
from layoutner.pages.page import Page, Problem, ReadStats
from layoutner.readers import READERS
from layoutner.settings.data import DataSettings
from layoutner.settings.tree import load


def read(format: str, path: Path, role: str) -> list[Document]:
    return read_documents(DataSettings(format=format), path, role)  # type: ignore[arg-type]


def form(folder: Path, entities: list[dict[str, object]], name: str = "a", size: tuple[int, int] = (200, 400)) -> Path:
    for kind in ("annotations", "images"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.new("L", size).save(folder / "images" / f"{name}.png")
    (folder / "annotations" / f"{name}.json").write_text(json.dumps({"form": entities}), encoding="utf-8")
    return folder


def entity(label: str | None, *words: tuple[str, list[float]]) -> dict[str, object]:
    made: dict[str, object] = {"words": [{"text": text, "box": box} for text, box in words]}
    return made if label is None else {**made, "label": label}


def test_funsd_scales_boxes_drops_blanks_and_groups_words(tmp_path: Path) -> None:
    folder = form(
        tmp_path,
        [
            entity("question", (" ", [0, 0, 1, 1]), ("Name", [10, 20, 50, 40]), ("of", [55, 20, 60, 40])),
            entity("other", ("page", [0, 399, 200, 400])),
            entity("answer", ("Ann", [70, 20, 90, 40])),
            entity("answer", (" ", [1, 1, 2, 2])),
        ],
    )
    (document,) = read("funsd", folder, "test")
    assert document.words == ("Name", "of", "page", "Ann")
    assert document.boxes == ((50, 50, 250, 100), (275, 50, 300, 100), (0, 997, 1000, 1000), (350, 50, 450, 100))
    assert document.tags == ("B-QUESTION", "I-QUESTION", "O", "B-ANSWER")
    assert document.page_size == (200, 400)


def test_funsd_without_labels_is_a_page_to_label(tmp_path: Path) -> None:
    (document,) = read("funsd", form(tmp_path, [entity(None, ("x", [0, 0, 5, 5]))]), "test")
    assert document.tags is None


def test_funsd_gives_each_role_its_split(forms: Path) -> None:
    assert len(read("funsd", forms, "train")) == 24
    assert len(read("funsd", forms, "test")) == 8
    assert len(read("funsd", forms / "testing_data", "train")) == 8
    assert len(read("funsd", forms / "testing_data" / "annotations" / "test-0000.json", "eval")) == 1
    with pytest.raises(NoSplitError, match="data.eval; give the full path of one of them, or give a fraction"):
        read("funsd", forms, "eval")


def test_all_problems_of_all_forms_are_said(tmp_path: Path) -> None:
    form(tmp_path, [entity("answer", ("wide", [0, 0, 201, 5]), ("back", [9, 0, 5, 5]))], "a")
    form(tmp_path, [], "b")
    (tmp_path / "images" / "b.png").unlink()
    form(tmp_path, [], "c")
    (tmp_path / "annotations" / "c.json").write_text('{"form": [{"words": [{"text": 3, "box": [1,2,3,4]}]}]}')
    form(tmp_path, [entity("answer", ("x", [0, 0, 1, float("nan")]))], "e")
    form(tmp_path, [], "d")
    (tmp_path / "annotations" / "d.json").write_text('{"form": [')
    with pytest.raises(DataError) as caught:
        read("funsd", tmp_path, "train")
    text = str(caught.value)
    assert "6 problem(s)" in text
    assert "a.json: word 0 'wide': box [0, 0, 1005, 12] leaves the page (0..1000); [0, 0, 201, 5] pixels" in text
    assert "a.json: word 1 'back': box [45, 0, 25, 12] is inverted" in text
    assert "b.json: page image" in text
    assert "c.json: word 0 3: a word must be text, not int" in text
    assert "annotations/d.json: not JSON" in text
    assert "e.json: word 0 'x': box [0, 0, 1, nan] is not four numbers" in text


def test_funsd_labels_are_all_there_or_none(tmp_path: Path) -> None:
    form(tmp_path, [entity("Other", ("x", [0, 0, 5, 5])), entity("answer", ("y", [0, 0, 5, 5]))], "a")
    form(tmp_path, [], "b")
    first, blank = read("funsd", tmp_path, "train")
    assert first.tags == ("O", "B-ANSWER")
    assert blank.tags == ()  # a page without words lacks no label
    form(tmp_path, [entity("answer", ("x", [0, 0, 5, 5])), entity(None, ("y", [0, 0, 5, 5]))], "c")
    form(tmp_path, [entity("", ("x", [0, 0, 5, 5]))], "d")
    form(tmp_path, [entity("answer", ("\ud800", [0, 0, 5, 5]))], "e")
    form(tmp_path, [entity("answer", ("x", [0, 0, 1e306, 5]))], "f")
    with pytest.raises(DataError) as caught:
        read("funsd", tmp_path, "train")
    text = str(caught.value)
    assert "c.json: some words have a label and some have none" in text
    assert "d.json: not a FUNSD annotation: TypeError: label '' is not a name" in text
    assert "e.json: word 0 '\\ud800': half a character" in text
    assert "f.json: word 0 'x': box [0, 0, 1e+306, 5] is not four numbers" in text


def test_a_folder_that_is_not_funsd(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a FUNSD folder"):
        read("funsd", tmp_path, "train")
    with pytest.raises(DataError, match="no such file or folder"):
        read("funsd", tmp_path / "nowhere", "train")
    form(tmp_path, [entity("answer", (" ", [0, 0, 1, 1]))])
    with pytest.raises(DataError, match="1 documents and not one word"):
        read("funsd", tmp_path, "train")


def write_unilm(folder: Path, rows: list[tuple[str, str, str]], name: str = "train") -> Path:
    for index, suffix in enumerate(("", "_box", "_image")):
        (folder / f"{name}{suffix}.txt").write_text("\n".join(row[index] for row in rows) + "\n", encoding="utf-8")
    return folder


def row(word: str, tag: str | None, box: str, image: str, size: str = "762 1000") -> tuple[str, str, str]:
    return (word if tag is None else f"{word}\t{tag}", f"{word}\t{box}", f"{word}\t1 2 3 4\t{size}\t{image}")


BLANK = ("", "", "")


def test_unilm_joins_the_pieces_of_a_page(tmp_path: Path) -> None:
    rows = [row("a", "B-X", "0 0 1 1", "p.png"), BLANK, row("b", "E-X", "1 1 2 2", "p.png")]  # and no blank line
    rows.append(row("c", "S-Y", "0 0 1000 1000", "q.png"))
    documents = read("unilm", write_unilm(tmp_path, rows), "train")
    assert [(d.name, d.words, d.tags) for d in documents] == [
        ("p", ("a", "b"), ("B-X", "E-X")),
        ("q", ("c",), ("S-Y",)),
    ]
    assert documents[1].boxes == ((0, 0, 1000, 1000),)
    assert documents[0].page_size == (762, 1000)
    assert read("unilm", tmp_path / "train.txt", "test")[0].name == "p"


def test_pages_of_two_sizes_that_share_a_name_stay_apart(tmp_path: Path) -> None:
    sizes = ["595 842", "842 595", "595 842"]
    rows = [
        row(f"{page}{piece}", "S-A", "0 0 1 1", "contract.pdf", size)
        for page, size in enumerate(sizes)
        for piece in range(2)
    ]
    blank_lines = [each for piece in rows for each in (piece, BLANK)]
    for lines in (rows, blank_lines):
        documents = read("unilm", write_unilm(tmp_path, lines), "train")
        assert [(d.name, d.words, d.page_size) for d in documents] == [
            ("contract", ("00", "01"), (595, 842)),
            ("contract", ("10", "11"), (842, 595)),
            ("contract", ("20", "21"), (595, 842)),
        ]
    # Every empty line is still that of one page: the file that predict writes goes with the one that was read.
    assert [d.breaks for d in documents] == [(1, 2)] * 3


def test_a_line_of_unreadable_size_costs_the_page_of_that_name_before_it(tmp_path: Path) -> None:
    sizes = ["5 5", "5 nan", "5 5", "7 7"]
    write_unilm(tmp_path, [row("a", "O", "0 0 1 1", "p.png", size) for size in sizes])
    settings = DataSettings(format="unilm", bad_pages="skip")
    stats = ReadStats()
    (document,) = read_documents(settings, tmp_path, "train", stats)
    assert document.page_size == (7, 7)
    assert "a page of 5 x nan; expected width and height, two numbers above 0" in str(stats.first_skipped)


def test_unilm_takes_sizes_that_are_not_whole(tmp_path: Path) -> None:
    rows = [row("a", "O", "0 0 1 1", "p.png", "595.276 841.89"), row("b", "O", "0 0 1 1", "q.png", "595 842")]
    sizes = [document.page_size for document in read("unilm", write_unilm(tmp_path, rows), "train")]
    assert sizes == [(595.276, 841.89), (595, 842)]
    assert [type(side) for side in sizes[1]] == [int, int]


@pytest.mark.parametrize("suffix", ["", "_box", "_image"])
def test_unilm_names_the_byte_that_is_not_utf_8(suffix: str, tmp_path: Path) -> None:
    write_unilm(tmp_path, [row("Straße", "O", "0 0 1 1", "p.png"), row("Café", "O", "0 0 1 1", "p.png")])
    file = tmp_path / f"train{suffix}.txt"
    content = file.read_bytes().replace("Café".encode(), b"Caf\xe9")
    file.write_bytes(content)
    what = f"/train{suffix}.txt: cannot be read: not UTF-8: byte 0xE9 at offset {content.index(0xE9)}; convert it, for"
    with pytest.raises(DataError, match=what):
        read("unilm", tmp_path, "train")


def test_unilm_in_utf_16(tmp_path: Path) -> None:
    write_unilm(tmp_path, [row("Größe", "S-A", "0 0 1 1", "p.png"), BLANK, row("x", "O", "0 0 1 1", "p.png")])
    expected = read("unilm", tmp_path, "train")
    for file in tmp_path.glob("*.txt"):
        file.write_bytes(file.read_text(encoding="utf-8").encode("utf-16"))
    assert read("unilm", tmp_path, "train") == expected
    (tmp_path / "train_box.txt").write_bytes("x".encode("utf-16") + b"\0")
    with pytest.raises(DataError, match=r"train_box.txt: cannot be read: .*utf-16.*; convert it"):
        read("unilm", tmp_path, "train")


def test_training_on_pages_that_cannot_be_read_names_the_setting_that_leaves_them_out(tmp_path: Path) -> None:
    form(tmp_path, [entity("answer", ("x", [0, 0, 5, 5]))], "a")
    form(tmp_path, [], "b")
    (tmp_path / "annotations" / "b.json").write_bytes(b'{"form": [{"label": "\xc3"}]}')
    with pytest.raises(DataError) as caught:
        read("funsd", tmp_path, "train")
    assert str(caught.value).startswith(
        f"1 problem(s) in {tmp_path} (data.bad_pages = skip leaves such pages out): b.json:"
    )
    assert "annotations/b.json: cannot be read: not UTF-8: byte 0xC3 at offset 21; convert it, for" in str(caught.value)


def test_a_form_and_a_list_of_labels_in_another_encoding(tmp_path: Path) -> None:
    form(tmp_path, [entity("größe", ("München", [0, 0, 5, 5]))])
    file = tmp_path / "annotations" / "a.json"
    file.write_bytes(
        json.dumps({"form": [entity("größe", ("München", [0, 0, 5, 5]))]}, ensure_ascii=False).encode("cp1252")
    )
    stats = ReadStats()
    (document,) = read_documents(DataSettings(), tmp_path, "train", stats)
    assert (document.words, document.tags) == (("München",), ("B-GRÖSSE",))
    assert stats.repaired == {"not UTF-8 (`layoutner data check` lists them)": 1}
    # A list of labels is held against the data letter by letter: nothing in it is guessed.
    (tmp_path / "labels.txt").write_bytes("B-Größe\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"labels.txt: cannot be read: not UTF-8: byte 0xF6 at offset 4; convert it"):
        read_labels(tmp_path / "labels.txt", "BIO")


def test_empty_lines_are_those_of_the_text_file_where_its_companions_are_longer(tmp_path: Path) -> None:
    write_unilm(tmp_path, [row("a", "B-X", "0 0 1 1", "p.png"), BLANK])
    for suffix in ("_box", "_image"):
        with (tmp_path / f"train{suffix}.txt").open("a") as companion:
            companion.write("\n\n")
    (document,) = read("unilm", tmp_path, "train")
    assert document.breaks == (1,)


def test_unilm_without_labels(tmp_path: Path) -> None:
    (document,) = read("unilm", write_unilm(tmp_path, [row("a", None, "0 0 1 1", "p.png")]), "train")
    assert document.tags is None


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            row("a", "B-X", "0 0 1001 1", "p.png"),
            r"train.txt line 1, p.png: word 1 'a': box \[0, 0, 1001, 1\] leaves the page",
        ),
        (row("a", "B-X", "5 0 1 1", "p.png"), "is inverted"),
        (("a\tO", "a\t0 0 1 1", "a\t1 2 3 4\t0 5\tp.png"), "a page of 0 x 5; expected width and height"),
        (row("a", "B-X", "0 0 1", "p.png"), "expected 'word<TAB>x0 y0 x1 y1'"),
        (row("a", "X", "0 0 1 1", "p.png"), "label 'X' is neither O nor"),
        (("a\tO", "b\t0 0 1 1", "a\t1 2 3 4\t5 5\tp.png"), "do not match line by line: 'a', 'b', 'a'"),
        (("", "b\t0 0 1 1", "a\t1 2 3 4\t5 5\tp.png"), "do not match line by line"),
        (row("a", None, "0 0 1 1", "p.png"), "some words have a label and some have none"),
    ],
)
def test_unilm_problems_name_the_line(bad: tuple[str, str, str], message: str, tmp_path: Path) -> None:
    write_unilm(tmp_path, [row("z", "O", "0 0 1 1", "p.png"), bad])
    with pytest.raises(DataError, match=message):
        read("unilm", tmp_path, "train")


NAMELESS = ("b\tO", "b\t0 0 1 1", "b\t1 2 3 4")


@pytest.mark.parametrize(
    ("bad", "at", "left"),
    [
        (row("b", "O", "0 0 x 1", "q.png"), 2, ["p", "r"]),  # the first line of a page
        (row("b", "O", "0 0 x 1", "p.png"), 0, ["q", "r"]),  # the first of the file
        (row("b", "O", "0 0 x 1", "p.png"), 2, ["q", "r"]),  # the last of a page
        (NAMELESS, 1, ["q", "r"]),  # in the middle of a page
        (NAMELESS, 2, ["r"]),  # of p or of q
        (NAMELESS, 0, ["q", "r"]),
        (NAMELESS, 6, ["p", "q"]),
    ],
)
def test_an_unreadable_line_costs_its_own_page(
    bad: tuple[str, str, str], at: int, left: list[str], tmp_path: Path
) -> None:
    rows = [row(f"{page}{n}", "O", "0 0 1 1", f"{page}.png") for page in "pqr" for n in range(2)]
    write_unilm(tmp_path, [*rows[:at], bad, *rows[at:]])
    settings = DataSettings(format="unilm", bad_pages="skip")
    documents = read_documents(settings, tmp_path, "train")
    assert [(d.name, len(d.words)) for d in documents] == [(name, 2) for name in left]


def test_unilm_without_dev_says_what_there_is(tmp_path: Path) -> None:
    write_unilm(tmp_path, [row("z", "O", "0 0 1 1", "p.png")])
    with pytest.raises(NoSplitError, match=r"dev.txt: no such file; it holds train; data.eval also takes a fraction"):
        read("unilm", tmp_path, "eval")


def test_unilm_names_the_file_that_is_missing(tmp_path: Path) -> None:
    write_unilm(tmp_path, [row("z", "O", "0 0 1 1", "p.png")])
    (tmp_path / "train_box.txt").unlink()
    with pytest.raises(DataError, match=r"train_box.txt: no such file; train.txt is read with train_box.txt and"):
        read("unilm", tmp_path, "train")
    with pytest.raises(
        DataError,
        match=r"not a FUNSD folder: .*; .*/train.txt is a text file of run_seq_labeling.py: data.format = unilm",
    ):
        read("funsd", tmp_path, "train")


def documents(count: int) -> list[Document]:
    return [Document(str(n), (f"w{n}",), ((0, 0, 1, 1),), ("B-X",), (10, 10)) for n in range(count)]


def test_a_fraction_is_split_off_by_document_and_seed() -> None:
    everything = documents(149)
    rest, chosen = split(everything, 0.1, seed=42)
    assert (len(rest), len(chosen)) == (134, 15)
    assert sorted(rest + chosen, key=lambda d: int(d.name)) == everything
    assert split(everything, 0.1, seed=42) == (rest, chosen)
    assert split(everything, 0.1, seed=43) != (rest, chosen)
    with pytest.raises(SettingsError, match="training and evaluation need at least one document each"):
        split(documents(3), 0.1, seed=42)


def test_labels_by_file_and_a_label_that_is_not_in_it(forms: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("B-SENDER\nI-SENDER\nO\nB-DUE\n")
    settings = load(None, {"data": {"train": str(forms), "test": str(forms), "labels": str(labels)}})
    with pytest.raises(DataError) as caught:
        read_corpus(settings.data, 1)
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        f"12 label problem(s); the labels are those of {labels}, SENDER, DUE: add the missing ones there, or read "
        "types as O with data.ignore_types:"
    )
    assert len(lines) == 13  # one line for each type of each role, however many words have it
    first = "data.test: TOTAL is not one of the labels; 8 word(s) have it, the first: test-0000: word 1 "
    assert any(line.startswith(f"  - {first}") for line in lines)


def test_a_labels_file_with_a_byte_order_mark_and_an_odd_name(tmp_path: Path) -> None:
    from layoutner.pages.labels import read_labels

    path = tmp_path / "labels.txt"
    path.write_text("\ufeffO\nB-X-RAY\nX-RAY\nE-MAIL\n", encoding="utf-8")
    assert read_labels(path, "BIO").types == ("X-RAY", "MAIL")
    path.write_text("B-\n")
    with pytest.raises(DataError, match="a label without a type"):
        read_labels(path, "BIO")


def test_an_eval_fraction_of_blank_pages_is_refused(tmp_path: Path) -> None:
    for name in "abcdefghij":
        form(tmp_path, [entity("answer", ("x", [0, 0, 5, 5]))] if name == "a" else [], name)
    settings = load(None, {"data": {"train": str(tmp_path), "eval": "0.5"}})
    with pytest.raises(DataError, match=r"(data.eval = 0.5|what data.eval = 0.5 leaves).*not one word"):
        read_corpus(settings.data, 1)


def test_o_is_put_first(tmp_path: Path) -> None:
    write_unilm(tmp_path, [row("a", "S-B", "0 0 1 1", "p.png")])
    (tmp_path / "labels.txt").write_text("S-B\nS-A\n")
    settings = load(None, {"data": {"format": "unilm", "train": str(tmp_path), "scheme": "BIOES"}})
    labels = read_corpus(settings.data, 1).labels
    assert labels.tags == ["O", "B-B", "I-B", "E-B", "S-B", "B-A", "I-A", "E-A", "S-A"]


@pytest.mark.parametrize(("format", "folder"), [("funsd", "funsd"), ("unilm", "funsd_unilm")])
def test_funsd_counts_as_in_the_literature(format: str, folder: str, real_data: Path) -> None:
    path = str(real_data / folder)
    settings = load(None, {"data": {"format": format, "train": path, "test": path}})
    corpus = read_corpus(settings.data, 1)
    assert (len(corpus.train), len(corpus.test)) == (149, 50)
    assert sum(len(d.words) for d in corpus.train) == 21_888
    assert sum(len(d.words) for d in corpus.test) == 8_707
    assert sum(len(to_spans(d.tags or ())) for d in corpus.train) == 6_426
    assert sum(len(to_spans(d.tags or ())) for d in corpus.test) == 1_998
    assert corpus.labels.types == ("ANSWER", "HEADER", "QUESTION")


def test_both_formats_of_funsd_hold_the_same_pages(real_data: Path) -> None:
    ours = {d.name: d for d in read("funsd", real_data / "funsd", "test")}
    theirs = {d.name: d for d in read("unilm", real_data / "funsd_unilm", "test")}
    assert ours.keys() == theirs.keys()
    for name, document in ours.items():
        assert to_spans(document.tags or ()) == to_spans(theirs[name].tags or ())
        assert document.boxes == theirs[name].boxes
        assert document.page_size == theirs[name].page_size


def test_labels_are_ignored_where_pages_are_to_be_labelled_and_demanded_where_they_teach(tmp_path: Path) -> None:
    half = [entity("answer", ("x", [0, 0, 5, 5])), entity(None, ("y", [0, 0, 5, 5]))]
    form(tmp_path, half, "half")
    form(tmp_path, [entity(None, ("z", [0, 0, 5, 5]))], "none")
    form(tmp_path, [entity("answer", ("x", [0, 0, 5, 5])), entity(None, (" ", [0, 0, 5, 5]))], "whole")
    settings = DataSettings(bad_pages="skip")
    to_label = read_documents(settings, tmp_path, "train", labels="ignore")
    assert [(d.name, d.words, d.tags) for d in to_label] == [
        ("half", ("x", "y"), None),
        ("none", ("z",), None),
        ("whole", ("x",), None),
    ]
    stats = ReadStats()
    (whole,) = read_documents(settings, tmp_path, "train", stats, labels="require")
    assert whole.tags == ("B-ANSWER",)  # the blank word is dropped, so it needs no label
    assert stats.skipped == 2
    with pytest.raises(DataError, match="data.train: none: its words have no labels"):
        read_documents(DataSettings(), tmp_path, "train", labels="require")


@pytest.mark.parametrize("place", ["images", "image", "img", "annotations", "annotations/images"])
@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".tif", ".webp", ".bmp"])
def test_a_funsd_image_is_found_whatever_its_suffix_and_usual_folder(place: str, suffix: str, tmp_path: Path) -> None:
    form(tmp_path, [entity("other", ("x", [0, 0, 1, 1]))])
    (tmp_path / "images" / "a.png").unlink()
    (tmp_path / place).mkdir(exist_ok=True)
    Image.new("L", (30, 50)).save(tmp_path / place / f"a{suffix}")
    (document,) = read("funsd", tmp_path, "train")
    assert (document.image, document.page_size) == (PageImage(tmp_path / place / f"a{suffix}"), (30, 50))


def test_of_two_images_of_one_name_it_is_always_the_same(tmp_path: Path) -> None:
    form(tmp_path, [entity("other", ("x", [0, 0, 1, 1]))])
    for suffix in (".tif", ".PNG", ".jpg"):
        Image.new("L", (30, 50)).save(tmp_path / "images" / f"a{suffix}")
    names = []
    for gone in ("a.png", "a.PNG", "a.jpg", "a.tif"):
        (document,) = read("funsd", tmp_path, "train")
        assert document.image is not None
        names.append(document.image.path.name)
        (tmp_path / "images" / gone).unlink()
    assert names == ["a.PNG", "a.PNG", "a.jpg", "a.tif"]


def test_images_that_belong_to_no_form_are_noted_where_forms_lack_theirs(tmp_path: Path) -> None:
    form(tmp_path, [], "a")
    assert [type(found) for found in READERS["funsd"](tmp_path, "train")] == [Page]
    (tmp_path / "images" / "a.png").rename(tmp_path / "images" / "scan-a.png")
    missing, note = READERS["funsd"](tmp_path, "train")
    assert isinstance(missing, Problem)
    assert isinstance(note, Problem)
    assert str(missing) == (
        "a.json: page image a.png (or .jpg, .jpeg, .tif ...): No such file in images/, image/, img/"
    )
    assert (str(note), note.fatal) == (
        f"{tmp_path / 'images'}: none of its 1 images is used, such as scan-a.png: none of them has the name "
        "of a page without an image, such as a.png",
        False,
    )
