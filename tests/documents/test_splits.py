"""Near-identical pages: which are found, that no split parts them, and what is said where the user's files do."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from layoutner.documents.duplicates import find_pairs, join
from layoutner.documents.roles import Corpus, read_corpus, read_documents
from layoutner.documents.splits import fold, name_note, split
from layoutner.errors import DataError, SettingsError
from layoutner.pages.document import Document
from layoutner.settings.data import DataSettings
from layoutner.settings.tree import load
from tests.builders.stories import NAMES, page, story


def receipt(number: str, total: str, date: str) -> str:
    goods = " ".join(f"{name} {2 * at}.50 {at + 3}.00" for at, name in enumerate(NAMES, 1))
    return f"The Corner Shop 12 High Street {goods} No. {number} Date {date} Total {total} Thank you"


def names(documents: list[Document], groups: list[list[int]]) -> list[list[str]]:
    return [[documents[index].name for index in group] for group in groups]


def test_a_second_reading_of_a_page_is_found_and_another_receipt_of_the_shop_is_not() -> None:
    first = receipt("4711", "88.20", "03/02/2018")
    again = first.replace("The Corner Shop", "THE CORNER,SHOP").replace("Total 88.20", "Total: 88 .20")
    documents = [
        page("first", first),
        page("again", again),
        page("next day", receipt("4722", "88.20", "04/02/2018")),
        page("other", story(1)),
    ]
    assert names(documents, join(find_pairs(documents), len(documents))) == [["first", "again"]]
    assert [pair.identical for pair in find_pairs(documents)] == [False]


def test_pages_with_few_numbers_are_near_by_their_text() -> None:
    words = story(0, 100).split()
    one = page("one", " ".join(words))
    near = page("near", " ".join([*words[:50], "smudge", *words[51:]]))  # 95 of 101 grams: 0.94
    far = page("far", " ".join(words[:85]))  # 83 of 98 grams: 0.85
    assert names([one, near, far], join(find_pairs([one, near, far]), 3)) == [["one", "near"]]


def test_short_pages_are_the_same_only_word_for_word_and_box_for_box() -> None:
    moved = Document("moved", ("PAID",), ((5, 5, 9, 9),), ("O",), (10, 10))
    documents = [page("a", "PAID"), page("b", "PAID"), page("c", "paid"), moved, page("d", ""), page("e", "")]
    assert names(documents, join(find_pairs(documents), len(documents))) == [["a", "b"]]
    assert find_pairs(documents)[0].identical


def test_the_same_image_is_the_same_page_whatever_was_read_on_it(tmp_path: Path) -> None:
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two"), ("d", b"longer")):
        (tmp_path / name).write_bytes(content)
    documents = [page(name, story(at), tmp_path / name) for at, name in enumerate("abcd")]
    documents.append(page("gone", story(9), tmp_path / "gone"))
    assert find_pairs(documents) == [(0, 1, True)]


def test_pages_are_joined_through_one_another(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(b"one")
    documents = [page("a", story(0), tmp_path / "a"), page("b", story(1), tmp_path / "b")]
    documents += [page("c", story(1)), page("d", story(2)), page("e", story(1) + " extra")]
    assert names(documents, join(find_pairs(documents), len(documents))) == [["a", "b", "c", "e"]]


MANY = """
import json
from tests.builders.stories import page, story
from layoutner.documents.duplicates import find_pairs, join
words = story(0, 120).split()
pages = [page(str(n), " ".join([*words[:n % 118], f"mark{'x' * n}", *words[n % 118 + 1:]])) for n in range(300)]
pairs = find_pairs(pages)
print(json.dumps([pairs, join(pairs, 300)]))
"""


def test_hundreds_of_copies_are_one_group_in_every_process_alike() -> None:
    found = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, check=True, env=environment)
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]
    pairs, groups = found[0]
    assert groups == [list(range(300))]
    assert len(pairs) < 300 * 299 / 2


def test_without_duplicates_a_split_is_a_plain_draw() -> None:
    documents = [page(str(n), story(n)) for n in range(40)]
    rest, chosen = split(documents, 0.2, seed=7)
    drawn = set(random.Random("7/eval").sample(range(40), 8))
    assert chosen == [document for n, document in enumerate(documents) if n in drawn]
    assert rest == [document for n, document in enumerate(documents) if n not in drawn]


def with_twins(count: int, twins: int) -> list[Document]:
    """`count` pages, the first `twins` of them twice."""
    return [
        *(page(str(n), story(n)) for n in range(count)),
        *(page(f"{n} again", story(n) + " copy") for n in range(twins)),
    ]


def stems(documents: list[Document]) -> set[str]:
    return {document.name.partition(" ")[0] for document in documents}


@pytest.mark.parametrize("seed", range(10))
def test_a_split_parts_no_twins_and_keeps_its_count(seed: int) -> None:
    documents = with_twins(30, 10)
    rest, chosen = split(documents, 0.25, seed)
    assert (len(rest), len(chosen)) == (30, 10)
    assert not stems(rest) & stems(chosen)
    assert split(documents, 0.25, seed) == (rest, chosen)


def test_where_all_pages_are_twins_the_split_falls_short() -> None:
    documents = with_twins(10, 10)
    rest, chosen = split(documents, 0.25, seed=1)  # 5 pages, of which 4 can be had
    assert (len(rest), len(chosen)) == (16, 4)
    with pytest.raises(
        SettingsError, match=r"20 documents is 1, but near-identical pages stay together and the smallest"
    ):
        split(documents, 0.05, seed=1)


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_every_document_is_in_exactly_one_fold(folds: int) -> None:
    documents = with_twins(30, 10)
    parts = [fold(documents, folds, number, seed=3) for number in range(1, folds + 1)]
    held_out = [document for _, part in parts for document in part]
    assert sorted(d.name for d in held_out) == sorted(d.name for d in documents)
    sizes = [len(part) for _, part in parts]
    assert max(sizes) - min(sizes) <= 1
    for rest, part in parts:
        assert len(rest) + len(part) == 40
        assert not stems(rest) & stems(part)
    assert fold(documents, folds, 1, seed=3) == parts[0]
    assert fold(documents, folds, 1, seed=4) != parts[0]


def test_more_folds_than_groups_are_refused() -> None:
    with pytest.raises(SettingsError, match="data.folds = 4 of 6 documents in 3 groups"):
        fold(with_twins(3, 3), 4, 1, seed=0)


def jsonl(path: Path, texts: dict[str, str]) -> str:
    lines = []
    for name, text in texts.items():
        words = [{"text": word, "box": [50, 900, 140, 915], "label": "B-X"} for word in text.split()]
        lines.append(json.dumps({"document": name, "page_size": [1000, 1400], "words": words}))
    path.write_text("\n".join(lines))
    return str(path)


def corpus(**data: str) -> Corpus:
    settings = load(None, {"data": {"format": "jsonl", **data}})
    return read_corpus(settings.data, settings.run.seed)


def test_pages_shared_by_the_users_files_are_noted(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train", {f"t{n}": story(n) for n in range(8)})
    test = jsonl(tmp_path / "test", {"u0": story(2) + " more", "u1": story(20), "u2": story(5)})
    found = corpus(train=train, test=test)
    assert found.notes == (
        "note: 2 of 3 pages of data.test are identical or near-identical to pages of data.train: u0 (t2), u2 (t5)",
    )
    assert (len(found.train), len(found.test)) == (8, 3)
    assert corpus(train=train, test=jsonl(tmp_path / "clean", {"u": story(20)})).notes == ()


def test_choosing_by_test_pages_is_refused_unless_it_is_said(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train", {f"t{n}": story(n) for n in range(8)})
    test = jsonl(tmp_path / "test", {f"u{n}": story(n + 20) for n in range(4)})
    mixed = jsonl(
        tmp_path / "mixed", {"m0": story(21), "m9": story(22), **{f"m{n}": story(n + 40) for n in range(1, 5)}}
    )
    for evaluation in (test, mixed):
        with pytest.raises(DataError, match=r"pages of data.eval are pages of data.test.*data.selection_split = test"):
            corpus(train=train, eval=evaluation, test=test)
    # Half of the test pages choose, however many others do too.
    large = jsonl(tmp_path / "large", {f"m{n}": story(n + 20 if n < 2 else n + 40) for n in range(60)})
    with pytest.raises(DataError, match=r"2 of 60 pages of data.eval are pages of data.test"):
        corpus(train=train, eval=large, test=test)
    # One of twenty is an accident of public data, and near-identical is not identical.
    rare = jsonl(tmp_path / "rare", {"m0": story(21), **{f"m{n}": story(n + 40) for n in range(1, 20)}})
    near = jsonl(tmp_path / "near", {f"m{n}": story(n + 20) + " more" for n in range(4)})
    assert "note: 1 of 4 pages of data.test" in corpus(train=train, eval=rare, test=test).notes[0]
    assert "note: 4 of 4 pages of data.test" in corpus(train=train, eval=near, test=test).notes[0]
    said = corpus(train=train, test=test, selection_split="test")
    assert said.eval == said.test
    assert said.notes == ("note: the checkpoint is chosen by the 4 test pages (data.selection_split = test)",)
    with pytest.raises(DataError, match=r"2 of 2 pages of data.eval are pages of data.test"):
        corpus(train=train, eval="0.25", test=train)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"selection_split": "test"}, "selection_split = test needs data.test"),
        ({"selection_split": "test", "test": "x", "eval": "0.1"}, "selection_split = test and eval = 0.1"),
        ({"selection_split": "test", "test": "x", "folds": "3", "fold": "1"}, "selection_split = test and folds = 3"),
        ({"fold": "1"}, "fold = 1 without folds"),
        ({"folds": "3", "fold": "4"}, "fold = 4 is not one of the 3 folds"),
        ({"folds": "3", "fold": "1", "eval": "0.1"}, "with folds, a fold is used as eval"),
        ({"folds": "3"}, "data.folds = 3 without data.fold: use `layoutner cross-validate`"),
    ],
)
def test_settings_that_contradict_each_other(data: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        corpus(train="x", **data)


def test_a_fold_is_what_eval_is_and_has_the_labels_of_all(tmp_path: Path) -> None:
    lines = jsonl(tmp_path / "train", {f"t{n}": story(n) for n in range(9)})
    (tmp_path / "train").write_text(Path(lines).read_text().replace('"B-X"', '"B-RARE"', 1))  # in the page t0 alone
    held_out = []
    for number in "123":
        found = corpus(train=lines, folds="3", fold=number)
        assert (len(found.train), len(found.eval)) == (6, 3)
        assert found.labels.types == ("RARE", "X")
        assert found.notes == (f"eval: fold {number} of 3 of the training documents",)
        held_out += [document.name for document in found.eval]
    assert sorted(held_out) == [f"t{n}" for n in range(9)]


def test_sroie_holds_seven_receipts_twice_and_funsd_no_form(real_data: Path) -> None:

    receipts = read_documents(DataSettings(format="sroie"), real_data / "sroie2019" / "train", "train")
    assert [(receipts[one].name, receipts[other].name) for one, other, _ in find_pairs(receipts)] == [
        ("X51005268262", "X51005301659"),
        ("X51005301661", "X51005303661"),
        ("X51005453801", "X51009453801"),
        ("X51005453804", "X51009453804"),
        ("X51006328919", "X51006329395"),
        ("X51006401723", "X51007135037"),
        ("X51007103641", "X51007103643"),
    ]
    funsd = DataSettings(format="funsd")
    forms = [d for role in ("train", "test") for d in read_documents(funsd, real_data / "funsd", role)]
    assert len(forms) == 199
    assert find_pairs(forms) == []


def pages_of_documents(documents: int, pages: int) -> list[Document]:
    """Pages that are not near-identical, named as a scanner names them."""
    return [
        replace(page(f"invoice-{d:03}-p{p}", story(d * pages + p)), group=f"invoice-{d:03}")
        for d in range(documents)
        for p in range(1, pages + 1)
    ]


def groups(documents: list[Document]) -> set[str | None]:
    return {document.group for document in documents}


@pytest.mark.parametrize("seed", range(5))
def test_pages_of_one_document_are_on_one_side_of_every_split(seed: int) -> None:
    documents = pages_of_documents(10, 3)
    rest, chosen = split(documents, 0.2, seed)
    assert (len(rest), len(chosen)) == (24, 6)
    assert not groups(rest) & groups(chosen)
    parts = [fold(documents, 3, number, seed) for number in (1, 2, 3)]
    assert sorted(len(part) for _, part in parts) == [9, 9, 12]
    for rest, part in parts:
        assert not groups(rest) & groups(part)
    # Without groups the same pages are parted.
    rest, chosen = split([replace(document, group=None) for document in documents], 0.2, seed)
    assert stems_of_pages(rest) & stems_of_pages(chosen)


def stems_of_pages(documents: list[Document]) -> set[str]:
    return {document.name.rpartition("-")[0] for document in documents}


def test_a_twin_of_a_page_brings_its_whole_document_along() -> None:
    documents = [*pages_of_documents(4, 2), page("copy of invoice-002-p1", story(5) + " copy")]
    assert documents[4].words == tuple(story(5).split())
    for seed in range(5):
        _, chosen = split(documents, 0.4, seed)
        together = {"copy of invoice-002-p1", "invoice-002-p1", "invoice-002-p2"}
        assert len(together & {document.name for document in chosen}) in (0, 3)


def multi_page(path: Path, names: list[str], first: int = 0, **keys: str) -> str:
    file = Path(jsonl(path, {name: story(first + at) for at, name in enumerate(names)}))
    lines = [{**json.loads(line), **keys} for line in file.read_text().splitlines()]
    file.write_text("\n".join(map(json.dumps, lines)))
    return str(file)


INVOICES = [f"invoice-{d:03}-p{p}" for d in range(6) for p in (1, 2)]


def test_groups_come_from_the_pages_or_from_their_names(tmp_path: Path) -> None:
    train = multi_page(tmp_path / "train", INVOICES)
    found = corpus(train=train, eval="0.34", group_by=r"(.+)-p\d+$")
    assert groups(found.train) | groups(found.eval) == {f"invoice-{d:03}" for d in range(6)}
    assert not groups(found.train) & groups(found.eval)
    assert found.notes == ()
    said = multi_page(tmp_path / "said", INVOICES[:2], group="the only one")
    assert groups(read_documents(DataSettings(format="jsonl", group_by="(.+)-p"), Path(said), "train")) == {
        "the only one"
    }


def test_names_that_look_like_pages_get_one_note(tmp_path: Path) -> None:
    found = corpus(train=multi_page(tmp_path / "train", INVOICES), eval="0.34")
    assert found.notes == (
        "note: 12 of 12 page names look like pages of 6 documents, such as the 2 of 'invoice-000'; set "
        "data.group_by to keep the pages of a document together: a split that separates them inflates the score",
    )


@pytest.mark.parametrize(
    ("names", "documents"),
    [
        (["a_1", "a_2", "b_1", "b_2"], 2),
        (["a page 1", "a page 2", "b page 1", "b page 2", "b page 3"], 2),
        (["scan (1)", "scan (2)", "letter (1)", "letter (2)"], 2),
        (["scan1", "scan2", "letter1", "letter2"], 2),
        ([f"train-{n:04}" for n in range(20)], 0),  # numbered documents
        ([f"form_{n}" for n in range(20)], 0),  # one row of numbers
        (["82092117", "82200067_0069", "87594142_87594144", "0000971160", "0000989556"], 0),  # FUNSD's
        ([f"zh_train_{n}" for n in range(40)] + [f"de_train_{n}" for n in range(40)], 0),  # XFUND's
        (["a_1", "a_2", "b_1", "b_2", *(f"x{n:06}" for n in range(9))], 0),  # a few among many
        (["a_7", "a_9", "b_12", "b_31"], 0),  # no pages are counted so
    ],
)
def test_which_names_look_like_pages(names: list[str], documents: int) -> None:
    note = name_note([page(name, story(at)) for at, name in enumerate(names)])
    assert (note is not None) == (documents > 0)
    assert note is None or f"pages of {documents} documents" in note


def test_no_public_data_set_looks_like_pages_of_documents(real_data: Path) -> None:
    for format, folder in (("funsd", "funsd"), ("sroie", "sroie2019/train"), ("cord", "cord_v1")):
        settings = DataSettings(format=format, invalid_boxes="clamp")  # type: ignore[arg-type]
        assert name_note(read_documents(settings, real_data / folder, "train")) is None


def test_documents_with_pages_in_two_files_are_named(tmp_path: Path) -> None:
    train = multi_page(tmp_path / "train", INVOICES)
    test = multi_page(tmp_path / "test", ["invoice-001-p3", "invoice-004-p3", "invoice-009-p1"], first=50)
    assert corpus(train=train, test=test, group_by=r"(.+)-p\d+$").notes == (
        "note: 2 of 3 pages of data.test belong to documents that also have pages in "
        "data.train: invoice-001, invoice-004",
    )


def test_an_expression_that_fits_no_name_is_refused_and_one_that_fits_some_is_noted(tmp_path: Path) -> None:
    train = multi_page(tmp_path / "train", [*INVOICES, "receipt"])
    with pytest.raises(DataError, match=r"group_by = \(x\) does not match the page name 'invoice-000-p1' or any other"):
        corpus(train=train, group_by="(x)")
    assert corpus(train=train, group_by="(.+)-p").notes == (
        f"train: note: {train}: data.group_by = (.+)-p does not match the page name 'receipt', so that page "
        "counts as a document of its own; it matches 12 other names",
    )
    for expression, why in (("(", "not a regular expression"), (".+", "has 0 groups"), ("(a)(b)", "has 2 groups")):
        with pytest.raises(SettingsError, match=f"data.*group_by = .*: {why}"):
            corpus(train=train, group_by=expression)
