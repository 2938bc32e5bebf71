"""Entity scores against seqeval, and the merge of windows before them."""

import random

import numpy as np
import pytest
import torch

from layoutner.corpus.windows import Window, Windows
from layoutner.distributed.ranks import Ranks
from layoutner.files.arrays import Array
from layoutner.models.collator import Collator
from layoutner.objectives.entities import count_entities
from layoutner.objectives.evaluate import Predictions, evaluate, in_document_order, label_words
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet, Span, to_spans, to_tags
from layoutner.planning.batch_plan import MicroBatchLimit
from tests.builders.scores import score_tags, seqeval_scores

ALONE = Ranks(rank=0, size=1, device=torch.device("cpu"))


def test_scores_are_by_entity_and_of_every_entity_that_is_delivered() -> None:
    truth = [["B-A", "I-A", "O", "B-B"], ["B-A", "O"]]
    predicted = [["B-A", "I-A", "O", "B-A"], ["I-A", "O"]]  # a lone I-A is an entity, as `predict` writes it
    scores = score_tags(truth, predicted, LabelSet("BIO", ("A", "B")), loss=0.5)
    assert (scores.precision, scores.recall) == (2 / 3, 2 / 3)
    assert scores.f1 == pytest.approx(2 / 3)
    assert scores.by_entity["A"] == {"precision": 2 / 3, "recall": 1.0, "f1": pytest.approx(0.8), "entities": 2}
    assert scores.by_entity["B"]["entities"] == 1
    assert scores.counts == {"documents": 2, "windows": 2, "words": 6, "entities": 3, "predicted_entities": 3}
    assert (scores.scheme, scores.split, scores.box_level) == ("BIO", "test", "word")


def test_bioes_is_scored_by_its_own_scheme() -> None:
    truth = [["S-A", "B-A", "E-A"]]
    scores = score_tags(truth, [["B-A", "B-A", "I-A"]], LabelSet("BIOES", ("A",)))
    assert (scores.precision, scores.recall) == (1.0, 1.0)  # without S- and E- they are the same words
    scores = score_tags(truth, [["S-A", "E-A", "E-A"]], LabelSet("BIOES", ("A",)))
    assert (scores.precision, scores.recall) == (1 / 3, 1 / 2)


def test_a_type_is_scored_and_listed_whatever_it_is_called() -> None:
    types = ("day avg", "micro avg", "all types", "macro avg", "O", "B-", "a-b", "b")
    truth = [[f"B-{kind}", f"I-{kind}", "O"] for kind in types]
    predicted = [*truth[:-2], ["B-b", "I-b", "O"], ["B-a-b", "I-a-b", "O"]]  # "a-b" and "b" for each other
    scores = score_tags(truth, predicted, LabelSet("BIO", types))
    assert list(scores.by_entity) == sorted(types)
    right, wrong = ({"precision": one, "recall": one, "f1": one, "entities": 1} for one in (1.0, 0.0))
    assert scores.by_entity == {kind: wrong if kind in ("a-b", "b") else right for kind in types}
    assert (scores.precision, scores.recall, scores.f1) == (0.75, 0.75, 0.75)
    *rows, line, total, interval = str(scores).splitlines()[2:]
    assert [row[2:14].rstrip() for row in rows] == sorted(types)
    assert line == "  " + "-" * 52
    assert total.split() == ["all", "types", "0.7500", "0.7500", "0.7500", "8"]
    # Residuals of 0.5 on six pages and of -1.5 on two: 1.96 x sqrt(8 / 7 x 6) / 16.
    assert interval == "  f1 0.7500 +- 0.3208 (95%, over pages)"
    assert scores.f1_interval == pytest.approx(1.96 * (8 / 7 * 6) ** 0.5 / 16, rel=1e-14)


@pytest.mark.parametrize("predicted", ["O", "B-A"])
def test_pages_without_entities_score_zero_without_a_warning(predicted: str) -> None:
    scores = score_tags([["O"]], [[predicted]], LabelSet("BIO", ("A",)))
    assert (scores.precision, scores.recall, scores.f1) == (0.0, 0.0, 0.0)


COLLATOR = Collator("bert", 0, None, pinned=False)


def fixed(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """A network that answers label 1 for odd input ids, else 0."""
    odd = (inputs["input_ids"] % 2).float()
    return torch.stack([1 - odd, odd, torch.zeros_like(odd)], dim=-1) * 10


def test_words_are_labelled_once_from_the_window_that_answers() -> None:
    box = (0, 0, 1, 1)
    documents = [Document("d", ("a", "b", "c"), (box,) * 3, ("B-X", "O", "B-X"), (10, 10))]
    windows = Windows(
        [
            Window(0, [0, 11, 12, 0], [box] * 4, [-100, 1, 0, -100], [(1, 0), (2, 1)]),
            Window(0, [0, 12, 13, 0], [box] * 4, [-100, -100, 1, -100], [(2, 2)]),
        ]
    )
    answers, loss = label_words(fixed, windows, COLLATOR, MicroBatchLimit(1), ALONE)
    page = in_document_order(answers, documents).of(0)
    assert [answer.label for answer in page] == [1, 0, 1]
    expected = torch.tensor([[0.0, 10, 0], [10, 0, 0], [0, 10, 0]])
    reference = torch.nn.functional.cross_entropy(expected, torch.tensor([1, 0, 1]), reduction="sum")
    assert loss == pytest.approx(float(reference), rel=1e-6)
    assert page[0].probability == pytest.approx(float(expected[0].softmax(0).max()))
    scores = evaluate(
        fixed, [(documents, windows)], LabelSet("BIO", ("X",)), "eval", "word", COLLATOR, MicroBatchLimit(2), ALONE
    )
    assert (scores.f1, scores.counts["entities"]) == (1.0, 2)
    assert scores.loss == pytest.approx(loss / 3)


def test_pages_in_another_scheme_are_scored_by_their_entities() -> None:
    box = (0, 0, 1, 1)
    documents = [Document("d", ("a", "b", "c"), (box,) * 3, ("B-X", "E-X", "S-X"), (10, 10))]
    windows = Windows([Window(0, [1, 2, 3], [box] * 3, [1, 2, 1], [(0, 0), (1, 1), (2, 2)])])

    def forward(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        answers = torch.tensor([0, 1, 2, 1])[inputs["input_ids"]]
        return torch.nn.functional.one_hot(answers, 3).float()

    labels = LabelSet("BIO", ("X",))
    scores = evaluate(forward, [(documents, windows)], labels, "test", "word", COLLATOR, MicroBatchLimit(2), ALONE)
    assert (scores.f1, scores.counts["entities"], scores.scheme) == (1.0, 2, "BIO")


def test_a_word_without_an_answer_is_a_failure() -> None:
    documents = [Document("d", ("a", "b"), ((0, 0, 1, 1),) * 2, None, (10, 10))]
    for documents_of, words, what in (
        ([0], [0], "coverage: 1 of 2 words have no label, 0 have several, and 0 labels .* the first: d, word 1"),
        ([0, 0, 3], [0, 1, 4], "coverage: 0 of 2 words .* 1 labels have no word; the first: document 3, word 4"),
        ([0, 0, 0], [0, 1, 2], "coverage: 0 of 2 words .* 1 labels have no word; the first: document 0, word 2"),
        ([0, 0, 0], [0, 1, 1], "coverage: 0 of 2 words have no label, 1 have several, .* the first: d, word 1"),
    ):
        count = len(words)
        found = Predictions(np.array(documents_of), np.array(words), np.zeros(count, int), np.ones(count))
        with pytest.raises(AssertionError, match=what):
            in_document_order(found, documents)


def many_pages(labels: LabelSet) -> tuple[list[list[str]], list[list[str]]]:
    """The true tags of 400 pages of 20,000 words, and those of a tagger that errs often, and breaks the scheme."""
    rng = random.Random(5)
    truth, predicted = [], []
    for _ in range(400):
        page: list[str] = []
        while len(page) < 50:
            kind, length = rng.choice(labels.types), rng.randint(1, 4)
            page += rng.choice([["O"] * length, to_tags([Span(kind, 0, length)], length, labels.scheme)])
        truth.append(page)
        predicted.append([tag if rng.random() < 0.8 else rng.choice(labels.tags) for tag in page])
    return truth, predicted


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
def test_many_pages_are_scored_as_by_seqeval(scheme: str) -> None:
    labels = LabelSet(scheme, ("A", "B-C", "micro avg"))
    truth, predicted = many_pages(labels)
    scores = score_tags(truth, predicted, labels)
    overall, by_type = seqeval_scores(truth, predicted, scheme)
    found = {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1}
    assert {**found, "entities": scores.counts["entities"]} == overall
    assert scores.by_entity == by_type
    assert 0.3 < scores.f1 < 0.7
    assert scores.counts["entities"] > 4000


def test_counts_of_chunks_add_up() -> None:
    labels = LabelSet("BIO", ("A", "B"))
    ids = np.random.default_rng(3).integers(0, len(labels.tags), (2, 60))
    whole = count_entities(*ids, np.array([0, 7, 7, 30, 60]), labels)
    parts = count_entities(*ids[:, :30], np.array([0, 7, 7, 30]), labels) + count_entities(
        *ids[:, 30:], np.array([0, 30]), labels
    )
    for name in ("truth", "predicted", "correct"):
        assert getattr(parts, name).tolist() == getattr(whole, name).tolist()
    assert whole.correct.sum() > 0
    assert (parts.documents, parts.squares) == (whole.documents, whole.squares)
    assert whole.documents == 4


def counts_by_page(truth: list[list[str]], predicted: list[list[str]]) -> tuple[Array, Array]:
    """Twice the correct entities of each page, and its true and predicted ones together."""
    spans = [(set(to_spans(one)), set(to_spans(other))) for one, other in zip(truth, predicted, strict=True)]
    return np.array([2 * len(one & other) for one, other in spans]), np.array([len(a) + len(b) for a, b in spans])


def test_the_interval_of_f1_is_that_of_a_ratio_of_sums_over_pages() -> None:
    labels = LabelSet("BIO", ("A", "B"))
    truth, predicted = many_pages(labels)
    truth[3] = predicted[3] = ["O"]  # a page without entities is a page
    truth[7] = predicted[7] = []  # and so is one without words
    for pages in (400, 9, 2):
        scores = score_tags(truth[-pages:], predicted[-pages:], labels)
        twice, both = counts_by_page(truth[-pages:], predicted[-pages:])
        f1 = twice.sum() / both.sum()
        assert scores.f1 == pytest.approx(f1, rel=1e-14)
        error = np.sqrt(pages / (pages - 1) * ((twice - f1 * both) ** 2).sum()) / both.sum()
        assert scores.f1_interval == pytest.approx(1.96 * error, rel=1e-11)  # here digits cancel, not there
        assert 0 < scores.f1_interval < 1


def test_the_interval_of_f1_is_that_of_the_bootstrap() -> None:
    labels = LabelSet("BIO", ("A", "B"))
    truth, predicted = many_pages(labels)
    twice, both = counts_by_page(truth, predicted)
    draws = np.random.default_rng(11).integers(0, len(truth), (2000, len(truth)))
    f1s = twice[draws].sum(1) / both[draws].sum(1)
    interval = score_tags(truth, predicted, labels).f1_interval
    # The deviation of 2000 draws is itself known to 1 / sqrt(2 * 2000) = 1.6%, and terms of 1 / 400 are left out: 0.1
    # is five of both.
    assert interval == pytest.approx(1.96 * f1s.std(), rel=0.1)


def test_f1_has_no_interval_without_pages_that_differ() -> None:
    labels = LabelSet("BIO", ("A",))
    assert score_tags([["B-A", "O"]], [["B-A", "B-A"]], labels).f1_interval is None  # one page
    assert score_tags([["O"]] * 3, [["O"]] * 3, labels).f1_interval is None  # no entity
    right = score_tags([["B-A"], ["B-A", "B-A"]], [["B-A"], ["B-A", "B-A"]], labels)
    assert (right.f1, right.f1_interval) == (1.0, 0.0)
    assert "+-" not in str(right)
