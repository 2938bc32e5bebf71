"""Spans and tags, there and back."""

import random
from pathlib import Path

import pytest

from layoutner.pages.labels import LabelSet, Span, read_labels, to_spans, to_tags


def test_spans_of_both_schemes() -> None:
    spans = [Span("A", 0, 1), Span("A", 1, 4), Span("B", 5, 6)]
    assert to_tags(spans, 7, "BIO") == ["B-A", "B-A", "I-A", "I-A", "O", "B-B", "O"]
    assert to_tags(spans, 7, "BIOES") == ["S-A", "B-A", "I-A", "E-A", "O", "S-B", "O"]


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        (["I-A", "I-A"], [Span("A", 0, 2)]),
        (["E-A", "I-A"], [Span("A", 0, 1), Span("A", 1, 2)]),
        (["B-A", "I-B"], [Span("A", 0, 1), Span("B", 1, 2)]),
        (["S-A", "I-A"], [Span("A", 0, 1), Span("A", 1, 2)]),
        (["O", "O"], []),
        ([], []),
    ],
)
def test_broken_sequences_are_read_as_conlleval_reads_them(tags: list[str], spans: list[Span]) -> None:
    assert to_spans(tags) == spans


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
def test_there_and_back(scheme: str) -> None:
    rng = random.Random(1)
    for _ in range(300):
        spans, place = [], 0
        while place < 40:
            place += rng.randrange(3)
            end = place + rng.randrange(1, 5)
            spans.append(Span(rng.choice("AB"), place, end))
            place = end
        assert to_spans(to_tags(spans, 60, scheme)) == spans


def test_label_set_of_a_model_comes_back() -> None:
    for scheme, count in (("BIO", 7), ("BIOES", 13)):
        labels = LabelSet(scheme, ("ANSWER", "HEADER", "QUESTION"))
        assert len(labels.tags) == count
        assert labels.tags[0] == "O"
        assert labels.ids["O"] == 0
        assert LabelSet.from_tags(labels.tags) == labels


def test_later_sub_words_continue_the_entity_of_their_word() -> None:
    labels = LabelSet("BIO", ("A", "B"))
    assert [labels.tags[label] for label in labels.continued] == ["O", "I-A", "I-A", "I-B", "I-B"]
    labels = LabelSet("BIOES", ("A",))
    assert labels.tags == ["O", "B-A", "I-A", "E-A", "S-A"]
    assert [labels.tags[label] for label in labels.continued] == ["O", "I-A", "I-A", "I-A", "I-A"]


@pytest.mark.parametrize(
    "text",
    ["O\nB-X\nI-X\nB-Y\nI-Y\n", "B-X\r\nI-X\r\nB-Y\r\nI-Y", "S-X\nB-X\nE-X\nI-X\n\n  S-Y\n", "X\nY\n", "I-X\nO\nI-Y"],
)
def test_a_labels_file_in_either_scheme_with_or_without_o(text: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(text.encode())
    assert read_labels(path, "BIO").tags == ["O", "B-X", "I-X", "B-Y", "I-Y"]
    assert read_labels(path, "BIOES").tags == ["O", *(f"{prefix}-{kind}" for kind in "XY" for prefix in "BIES")]
