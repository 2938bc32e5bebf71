"""Entity scores against seqeval, and the merge of windows before them."""

import numpy as np
import pytest
import torch

from layoutner.corpus.windows import Window, Windows
from layoutner.distributed.ranks import Ranks
from layoutner.models.collator import Collator
from layoutner.objectives.evaluate import Predictions, evaluate, in_document_order, label_words
from layoutner.objectives.metrics import score
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet
from layoutner.planning.batch_plan import MicroBatchLimit

ALONE = Ranks(rank=0, size=1, device=torch.device("cpu"))


def test_scores_are_by_entity_and_of_every_entity_that_is_delivered() -> None:
    truth = [["B-A", "I-A", "O", "B-B"], ["B-A", "O"]]
    predicted = [["B-A", "I-A", "O", "B-A"], ["I-A", "O"]]  # a lone I-A is an entity, as `predict` writes it
    scores = score(truth, predicted, scheme="BIO", split="test", box_level="word", loss=0.5, windows=2)
    assert (scores.precision, scores.recall) == (2 / 3, 2 / 3)
    assert scores.f1 == pytest.approx(2 / 3)
    assert scores.by_entity["A"] == {"precision": 2 / 3, "recall": 1.0, "f1": pytest.approx(0.8), "entities": 2}
    assert scores.by_entity["B"]["entities"] == 1
    assert scores.counts == {"documents": 2, "windows": 2, "words": 6, "entities": 3, "predicted_entities": 3}
    assert (scores.scheme, scores.split, scores.box_level) == ("BIO", "test", "word")


def test_bioes_is_scored_by_its_own_scheme() -> None:
    truth = [["S-A", "B-A", "E-A"]]
    scores = score(truth, [["B-A", "B-A", "I-A"]], scheme="BIOES", split="test", box_level="word", loss=0.0, windows=1)
    assert (scores.precision, scores.recall) == (1.0, 1.0)  # without S- and E- they are the same words
    scores = score(truth, [["S-A", "E-A", "E-A"]], scheme="BIOES", split="test", box_level="word", loss=0.0, windows=1)
    assert (scores.precision, scores.recall) == (1 / 3, 1 / 2)


def test_a_type_is_scored_and_listed_whatever_it_is_called() -> None:
    types = ("day avg", "micro avg", "all types", "macro avg", "O", "B-", "a-b", "b")
    truth = [[f"B-{kind}", f"I-{kind}", "O"] for kind in types]
    predicted = [*truth[:-2], ["B-b", "I-b", "O"], ["B-a-b", "I-a-b", "O"]]  # "a-b" and "b" for each other
    scores = score(truth, predicted, scheme="BIO", split="test", box_level="word", loss=0.0, windows=8)
    assert list(scores.by_entity) == sorted(types)
    right, wrong = ({"precision": one, "recall": one, "f1": one, "entities": 1} for one in (1.0, 0.0))
    assert scores.by_entity == {kind: wrong if kind in ("a-b", "b") else right for kind in types}
    assert (scores.precision, scores.recall, scores.f1) == (0.75, 0.75, 0.75)
    *rows, line, total = str(scores).splitlines()[2:]
    assert [row[2:14].rstrip() for row in rows] == sorted(types)
    assert line == "  " + "-" * 52
    assert total.split() == ["all", "types", "0.7500", "0.7500", "0.7500", "8"]


@pytest.mark.parametrize("predicted", ["O", "B-A"])
def test_pages_without_entities_score_zero_without_a_warning(predicted: str) -> None:
    scores = score([["O"]], [[predicted]], scheme="BIO", split="eval", box_level="word", loss=0.0, windows=1)
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
