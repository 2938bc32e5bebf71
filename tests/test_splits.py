"""Near-identical pages: which are found, that no split parts them, and what is said where the user's files do."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from layoutner.config.errors import UserError
from layoutner.config.settings import load
from layoutner.data.corpus import Corpus, read_corpus, read_documents
from layoutner.data.document import Document, PageImage
from layoutner.data.duplicates import find_groups, find_pairs
from layoutner.data.splits import fold, split

NAMES = [first + second for first in "brst" for second in ("ale", "oak", "ill", "ump")]


def page(name: str, text: str, image: Path | None = None) -> Document:
    words = tuple(text.split())
    return Document(
        name,
        words,
        ((0, 0, 1, 1),) * len(words),
        ("B-X",) * len(words),
        (10, 10),
        None if image is None else PageImage(image),
    )


def story(seed: int, length: int = 40) -> str:
    """Words of letters, each once, that are of no other seed's story."""
    mark = "abcdefghij"[seed % 10] * (seed // 10 + 1)
    return " ".join(f"{NAMES[at % 16]}{'klmnopqr'[at // 16]}{mark}" for at in range(length))


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
    assert names(documents, find_groups(documents)) == [["first", "again"]]
    assert [pair.identical for pair in find_pairs(documents)] == [False]


def test_pages_with_few_numbers_are_near_by_their_text() -> None:
    words = story(0, 100).split()
    one = page("one", " ".join(words))
    near = page("near", " ".join([*words[:50], "smudge", *words[51:]]))  # 95 of 101 grams: 0.94
    far = page("far", " ".join(words[:85]))  # 83 of 98 grams: 0.85
    assert names([one, near, far], find_groups([one, near, far])) == [["one", "near"]]


def test_short_pages_are_the_same_only_word_for_word_and_box_for_box() -> None:
    moved = Document("moved", ("PAID",), ((5, 5, 9, 9),), ("O",), (10, 10))
    documents = [page("a", "PAID"), page("b", "PAID"), page("c", "paid"), moved, page("d", ""), page("e", "")]
    assert names(documents, find_groups(documents)) == [["a", "b"]]
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
    assert names(documents, find_groups(documents)) == [["a", "b", "c", "e"]]


MANY = """
import json
from tests.test_splits import page, story
from layoutner.data.duplicates import find_pairs, join
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
    with pytest.raises(UserError, match=r"20 documents is 1, but near-identical pages stay together and the smallest"):
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
    with pytest.raises(UserError, match="data.folds = 4 of 6 documents in 3 groups"):
        fold(with_twins(3, 3), 4, 1, seed=0)


def jsonl(path: Path, texts: dict[str, str]) -> str:
    lines = []
    for name, text in texts.items():
        words = [{"text": word, "box": [0, 0, 9, 9], "label": "B-X"} for word in text.split()]
        lines.append(json.dumps({"document": name, "page_size": [10, 10], "words": words}))
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
        with pytest.raises(UserError, match=r"pages of data.eval are pages of data.test.*data.choose_by = test"):
            corpus(train=train, eval=evaluation, test=test)
    # Half of the test pages choose, however many others do too.
    large = jsonl(tmp_path / "large", {f"m{n}": story(n + 20 if n < 2 else n + 40) for n in range(60)})
    with pytest.raises(UserError, match=r"2 of 60 pages of data.eval are pages of data.test"):
        corpus(train=train, eval=large, test=test)
    # One of twenty is an accident of public data, and near-identical is not identical.
    rare = jsonl(tmp_path / "rare", {"m0": story(21), **{f"m{n}": story(n + 40) for n in range(1, 20)}})
    near = jsonl(tmp_path / "near", {f"m{n}": story(n + 20) + " more" for n in range(4)})
    assert "note: 1 of 4 pages of data.test" in corpus(train=train, eval=rare, test=test).notes[0]
    assert "note: 4 of 4 pages of data.test" in corpus(train=train, eval=near, test=test).notes[0]
    said = corpus(train=train, test=test, choose_by="test")
    assert said.eval == said.test
    assert said.notes == ("note: the checkpoint is chosen by the 4 test pages (data.choose_by = test)",)
    with pytest.raises(UserError, match=r"2 of 2 pages of data.eval are pages of data.test"):
        corpus(train=train, eval="0.25", test=train)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"choose_by": "test"}, "choose_by = test and no test: give data.test"),
        ({"choose_by": "test", "test": "x", "eval": "0.1"}, "choose_by = test and eval = 0.1"),
        ({"choose_by": "test", "test": "x", "folds": "3", "fold": "1"}, "choose_by = test and folds = 3"),
        ({"fold": "1"}, "fold = 1 of how many"),
        ({"folds": "3", "fold": "4"}, "fold = 4 is not one of the 3 folds"),
        ({"folds": "3", "fold": "1", "eval": "0.1"}, "with folds, a fold is what eval is"),
        ({"folds": "3"}, "data.folds = 3 without data.fold: `layoutner cross-validate`"),
    ],
)
def test_settings_that_contradict_each_other(data: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
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
    from layoutner.config.settings import DataSettings

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
