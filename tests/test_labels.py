"""Spans and tags, there and back."""

import random

import pytest

from layoutner.data.labels import LabelSet, Span, to_spans, to_tags


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
    dice = random.Random(1)
    for _ in range(300):
        spans, place = [], 0
        while place < 40:
            place += dice.randrange(3)
            end = place + dice.randrange(1, 5)
            spans.append(Span(dice.choice("AB"), place, end))
            place = end
        assert to_spans(to_tags(spans, 60, scheme)) == spans


def test_label_set_of_a_model_comes_back() -> None:
    for scheme, count in (("BIO", 7), ("BIOES", 13)):
        labels = LabelSet(scheme, ("ANSWER", "HEADER", "QUESTION"))
        assert len(labels.tags) == count
        assert labels.tags[0] == "O"
        assert labels.ids["O"] == 0
        assert LabelSet.from_tags(labels.tags) == labels
