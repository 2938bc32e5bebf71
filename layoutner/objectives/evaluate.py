"""Evaluation: all ranks predict, predictions are merged per word, rank 0 computes the scores."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch

from layoutner.corpus.batches import Batch, assign_to_ranks, collate
from layoutner.corpus.windows import Window
from layoutner.distributed.ranks import Ranks
from layoutner.errors import DataError
from layoutner.objectives.loss import summed_cross_entropy
from layoutner.objectives.metrics import Scores, score
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet
from layoutner.planning.batch_plan import MicroBatchLimit

Forward = Callable[[Batch], torch.Tensor]  # a Batch -> logits, B x T x L


class WordPrediction(NamedTuple):
    """The model's prediction for one word."""

    label: int  # id
    probability: float


@torch.no_grad()
def label_words(
    forward: Forward,
    windows: Sequence[Window],
    limit: MicroBatchLimit,
    pad_token_id: int,
    ranks: Ranks,
    packed: bool = False,
) -> tuple[dict[tuple[int, int], WordPrediction], float]:
    """Predict a label for every word that a window owns.

    All ranks call it and run the same number of forward passes (at ZeRO 3 each one is a collective). A rank without
    windows runs a batch of padding. The batches do not depend on the number of ranks.

    Args:
        limit: the largest batch.
        packed: whether the network takes packed rows.

    Returns:
        On rank 0: {(document, word): prediction}, and the cross-entropy summed over the labelled words. On other ranks:
        only that rank's part.
    """
    (batches,) = assign_to_ranks(range(len(windows)), [one.length for one in windows], limit, 1, packed)
    forwards = math.ceil(len(batches) / ranks.size)
    answers: dict[tuple[int, int], WordPrediction] = {}
    loss = 0.0
    for number in range(forwards):
        place = number * ranks.size + ranks.rank
        mine = [windows[index] for index in (batches[place] if place < len(batches) else ())]
        with ranks.activity("local", f"reading the windows of evaluation forward {number + 1} of {forwards}"):
            batch = collate(mine, pad_token_id, packed)
        with ranks.activity("shared", "evaluating"):
            logits_BTL = forward(batch).float().cpu()
        loss += float(summed_cross_entropy(logits_BTL, batch.labels_BT))
        for window, logits_TL in zip(mine, batch.of_windows(logits_BTL), strict=True):
            tokens = [token for token, _ in window.owned_words]
            probabilities, labels = logits_TL[tokens].softmax(-1).max(-1)
            for (_, word), label, probability in zip(
                window.owned_words, labels.tolist(), probabilities.tolist(), strict=True
            ):
                answers[window.document, word] = WordPrediction(label, probability)
    gathered = ranks.gather_object((answers, loss))
    if gathered is None:
        return answers, loss
    merged = {key: answer for found, _ in gathered for key, answer in found.items()}
    return merged, sum(part for _, part in gathered)


def in_document_order(
    answers: dict[tuple[int, int], WordPrediction], documents: Sequence[Document]
) -> list[list[WordPrediction]]:
    """Predictions as one list per document, with one prediction per word.

    Raises:
        AssertionError: a word has no prediction, or a prediction has no word. No input causes this: it checks for bugs
            in the merging of windows.
    """
    words = {(index, word) for index, document in enumerate(documents) for word in range(len(document.words))}
    if wrong := sorted(words ^ answers.keys()):
        index, word = wrong[0]
        where = f"{documents[index].name}, word {word}" if wrong[0] in words else f"document {index}, word {word}"
        raise AssertionError(
            f"coverage: {len(words - answers.keys())} of {len(words)} words have no label, and "
            f"{len(answers.keys() - words)} labels have no word; the first: {where}"
        )
    return [[answers[index, word] for word in range(len(document.words))] for index, document in enumerate(documents)]


def evaluate(
    forward: Forward,
    parts: Iterable[tuple[Sequence[Document], Sequence[Window]]],
    labels: LabelSet,
    split: str,
    box_level: str,
    limit: MicroBatchLimit,
    pad_token_id: int,
    ranks: Ranks,
    packed: bool = False,
) -> Scores:
    """Score labelled documents. All ranks call it, and get the same result.

    Args:
        parts: chunks of documents with their windows, the same on every rank. Only the tags are kept in memory.
        limit, packed: see `label_words`.

    Raises:
        DataError: there is no word to score.
    """
    truth: list[list[str]] = []
    predicted: list[list[str]] = []
    loss, count, tags = 0.0, 0, labels.tags

    def keep(documents: Sequence[Document], answers: dict[tuple[int, int], WordPrediction]) -> None:
        predicted.extend([tags[answer.label] for answer in page] for page in in_document_order(answers, documents))
        truth.extend(list(document.tags or ()) for document in documents)

    def scores() -> Scores:
        if not any(truth):
            raise DataError(f"{split}: {len(truth)} documents and not one word to score")
        mean = loss / sum(map(len, truth))
        return score(
            truth,
            predicted,
            scheme=labels.scheme,
            split=split,
            box_level=box_level,
            loss=mean,
            windows=count,
        )

    for documents, windows in parts:
        answers, part = label_words(forward, windows, limit, pad_token_id, ranks, packed)
        ranks.run_on_rank_zero(partial(keep, documents, answers))
        loss, count = loss + part, count + len(windows)
    result: Scores = ranks.run_on_rank_zero(scores)
    return result
