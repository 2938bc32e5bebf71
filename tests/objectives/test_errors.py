"""Kinds of errors, confusion, probabilities and worst pages, against counts by hand and by a slow reading."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layoutner.corpus.windows import ends_of
from layoutner.errors import CheckpointError
from layoutner.objectives.entities import count_entities
from layoutner.objectives.errors import WORST_PAGES, ErrorCounter, Errors, pair_entities
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet, Span, to_spans

LABELS = LabelSet("BIO", ("DATE", "TOTAL"))
TAGS = st.lists(st.sampled_from(LABELS.tags), min_size=1, max_size=12)


def spans(*found: tuple[str, int, int]) -> list[Span]:
    return [Span(*one) for one in found]


def document(name: str, tags: list[str]) -> Document:
    boxes = tuple((index, 0, index + 1, 9) for index in range(len(tags)))
    return Document(name, tuple(f"w{index}" for index in range(len(tags))), boxes, tuple(tags), (100, 100))


def counted(*pages: tuple[list[str], list[str], list[float]], chunk: int = 100) -> Errors:
    """The errors of pages: true tags, predicted tags, probabilities."""
    counter = ErrorCounter()
    for start in range(0, len(pages), chunk):
        part = pages[start : start + chunk]
        documents = [document(f"page {start + number}", truth) for number, (truth, _, _) in enumerate(part)]
        predicted = np.array([LABELS.ids[tag] for _, tags, _ in part for tag in tags])
        probabilities = np.array([one for _, _, found in part for one in found], np.float32)
        counter.add(documents, ends_of(len(truth) for truth, _, _ in part), predicted, probabilities, LABELS)
    return counter.result("test")


@pytest.mark.parametrize(
    ("truth", "predicted", "kinds"),
    [
        ([("A", 0, 2)], [("A", 0, 2)], ["correct"]),
        ([("A", 0, 2)], [("B", 0, 2)], ["wrong type"]),
        ([("A", 0, 2)], [("A", 1, 2)], ["wrong boundary"]),
        ([("A", 0, 2)], [("B", 1, 3)], ["wrong type"]),
        ([("A", 0, 2)], [], ["missed"]),
        ([], [("A", 0, 2)], ["spurious"]),
        ([("A", 0, 2)], [("A", 2, 4)], ["missed", "spurious"]),
        # A split entity: one half is compared with it, the larger one.
        ([("A", 0, 5)], [("A", 0, 2), ("A", 2, 5)], ["spurious", "wrong boundary"]),
        # The same type goes before more shared words.
        ([("A", 0, 5)], [("B", 0, 4), ("A", 4, 5)], ["spurious", "wrong boundary"]),
        # The same words go before the same type.
        ([("A", 0, 3), ("A", 3, 4)], [("B", 0, 3), ("A", 3, 4)], ["correct", "wrong type"]),
        # What is correct is paired first, whatever else overlaps.
        (
            [("A", 0, 1), ("A", 1, 4)],
            [("A", 0, 1), ("B", 1, 2), ("A", 2, 4)],
            ["correct", "spurious", "wrong boundary"],
        ),
    ],
)
def test_kinds_of_errors(
    truth: list[tuple[str, int, int]], predicted: list[tuple[str, int, int]], kinds: list[str]
) -> None:
    assert sorted(pair.kind for pair in pair_entities(spans(*truth), spans(*predicted))) == kinds


@given(st.lists(TAGS.flatmap(lambda tags: st.tuples(st.just(tags), st.permutations(tags))), min_size=1, max_size=4))
def test_every_entity_is_in_one_pair_and_the_correct_ones_are_those_of_the_score(
    pages: list[tuple[list[str], list[str]]],
) -> None:
    for truth, predicted in pages:
        pairs = pair_entities(to_spans(truth), to_spans(predicted))
        assert sorted(pair.truth for pair in pairs if pair.truth is not None) == sorted(to_spans(truth))
        assert sorted(pair.predicted for pair in pairs if pair.predicted is not None) == sorted(to_spans(predicted))
    errors = counted(*((truth, predicted, [0.5] * len(truth)) for truth, predicted in pages), chunk=2)
    flat = [np.array([LABELS.ids[tag] for page in pages for tag in page[side]]) for side in (0, 1)]
    score = count_entities(*flat, ends_of(len(truth) for truth, _ in pages), LABELS)
    for kind, truth_count, correct in zip(LABELS.types, score.truth, score.correct, strict=True):
        row = errors.kinds.get(kind, Counter())
        assert row["correct"] == correct
        assert row["correct"] + row["wrong boundary"] + row["wrong type"] + row["missed"] == truth_count
    total = Counter(kind for row in errors.kinds.values() for kind, count in row.items() for _ in range(count))
    assert total.total() - total["missed"] == score.predicted.sum()


def test_words_by_type_and_probability() -> None:
    errors = counted(
        (["B-DATE", "I-DATE", "O"], ["B-DATE", "B-TOTAL", "O"], [0.95, 0.35, 1.0]),
        (["B-TOTAL", "O"], ["O", "B-TOTAL"], [0.39, 0.0]),
        chunk=1,
    )
    assert errors.types == ("O", "DATE", "TOTAL")
    assert errors.confusion == ((1, 0, 1), (0, 1, 1), (1, 0, 0))
    found = [(one.words, one.correct, round(one.probability, 4)) for one in errors.bins]
    assert found == [(1, 0, 0), (0, 0, 0), (0, 0, 0), (2, 0, 0.74), *[(0, 0, 0)] * 5, (2, 2, 1.95)]
    assert errors.calibration_error == pytest.approx((0.74 + 0.05) / 5)
    assert errors.documents == 2


def test_the_worst_pages_come_first_and_the_others_are_left_out() -> None:
    wrong = [number % 7 for number in range(3 * WORST_PAGES)]
    pages = [(["B-DATE"] * 6, ["O"] * count + ["B-DATE"] * (6 - count), [0.5] * 6) for count in wrong]
    errors = counted(*pages, chunk=40)
    order = sorted(range(len(wrong)), key=lambda number: (-wrong[number], number))[:WORST_PAGES]
    assert [page.document for page in errors.pages] == [f"page {number}" for number in order]
    assert [page.errors for page in errors.pages] == [wrong[number] for number in order]
    assert errors.kinds["DATE"]["missed"] == sum(wrong)


def test_a_page_without_an_error_is_none_of_the_worst() -> None:
    assert counted((["B-DATE", "O"], ["B-DATE", "O"], [1.0, 1.0])).pages == ()


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    errors = counted((["B-DATE", "O"], ["O", "B-TOTAL"], [0.25, 0.75]))
    errors.write(tmp_path / "errors.json")
    assert Errors.read(tmp_path / "errors.json") == errors
    text = (tmp_path / "errors.json").read_text().replace('"format_version": 1', '"format_version": 2')
    (tmp_path / "errors.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"errors.json has format_version 2, this layoutner reads up to 1"):
        Errors.read(tmp_path / "errors.json")


def test_lone_surrogates_are_written_as_escapes(tmp_path: Path) -> None:
    counter = ErrorCounter()
    page = Document("a\ud800", ("\udfff",), ((0, 0, 1, 1),), ("B-DATE",), (1, 1))
    counter.add([page], ends_of([1]), np.array([0]), np.array([0.5], np.float32), LABELS)
    counter.result("test").write(tmp_path / "errors.json")
    (found,) = Errors.read(tmp_path / "errors.json").pages
    assert (found.document, found.words) == ("a\\ud800", ("\\udfff",))
