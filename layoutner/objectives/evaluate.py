"""Evaluation: all ranks predict, predictions are merged per word, rank 0 computes the scores."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from layoutner.corpus.batches import Batch, assign_to_ranks
from layoutner.corpus.prefetch import prefetched
from layoutner.corpus.windows import Window, Windows, ends_of
from layoutner.distributed.ranks import Ranks
from layoutner.documents.columns import word_counts
from layoutner.errors import DataError
from layoutner.files.arrays import Array
from layoutner.models.collator import Collator
from layoutner.objectives.calibration import WordLogits
from layoutner.objectives.entities import EntityCounts, count_entities
from layoutner.objectives.errors import ErrorCounter
from layoutner.objectives.field_accuracy import FieldCounter
from layoutner.objectives.loss import summed_cross_entropy
from layoutner.objectives.metrics import Scores, score
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet
from layoutner.planning.batch_plan import MicroBatchLimit
from layoutner.progress import counted

Forward = Callable[[dict[str, Any]], torch.Tensor]  # inputs from a Collator -> logits, B x T x L


class WordPrediction(NamedTuple):
    """The model's prediction for one word."""

    label: int  # id
    probability: float


@dataclass(frozen=True)
class Predictions:
    """Predictions for words, in any order, as flat arrays of equal length."""

    documents: Array  # index of the word's document
    words: Array  # index of the word in its document
    labels: Array  # ids
    probabilities: Array  # of these labels, fp32
    logits: Array = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # W x L; empty if nobody asked for them


@dataclass(frozen=True)
class WordPredictions:
    """One prediction per word of some documents, in their order, as flat arrays."""

    starts: Array  # where the words of each document begin, and where the last one's end
    labels: Array  # ids
    probabilities: Array
    logits: Array  # W x L, or empty

    def of(self, document: int) -> list[WordPrediction]:
        """The predictions for the words of one document."""
        words = slice(self.starts[document], self.starts[document + 1])
        return list(map(WordPrediction, self.labels[words].tolist(), self.probabilities[words].tolist()))


@torch.no_grad()
def label_words(
    forward: Forward,
    windows: Windows,
    collator: Collator,
    limit: MicroBatchLimit,
    ranks: Ranks,
    what: str = "predicting",
    temperature: float = 1.0,
    keep_logits: bool = False,
) -> tuple[Predictions, float]:
    """Predict a label for every word that a window owns.

    All ranks call it and run the same number of forward passes (at ZeRO 3 each one is a collective). A rank without
    windows runs a batch of padding. The batches do not depend on the number of ranks.

    Args:
        limit: the largest batch.
        what: this is for, as progress names it.
        temperature: logits are divided by it for the probabilities. It changes neither labels nor cross-entropy.
        keep_logits: return them, too.

    Returns:
        On rank 0: the predictions, and the cross-entropy summed over the labelled words. On other ranks: only that
        rank's part.
    """
    (batches,) = assign_to_ranks(range(len(windows)), windows.lengths, limit, 1, collator.packs)
    forwards = math.ceil(len(batches) / ranks.size)

    def read(number: int) -> tuple[list[Window], Batch, dict[str, Any]]:
        place = number * ranks.size + ranks.rank
        mine = [windows[index] for index in (batches[place] if place < len(batches) else ())]
        return mine, *collator.collate(mine)

    found = [Predictions(*(np.zeros(0, dtype) for dtype in (np.int32, np.int32, np.int16, np.float32)))]
    loss = 0.0
    with closing(prefetched(read, range(forwards), ranks.prefetch_threads)) as ahead:
        for number in counted(range(forwards), what, forwards, "batches"):
            with ranks.activity("local", f"reading the windows of evaluation forward {number + 1} of {forwards}"):
                mine, batch, inputs = next(ahead)
            with ranks.activity("shared", "evaluating"):
                logits_BTL = forward(inputs).float().cpu()
            loss += float(summed_cross_entropy(logits_BTL, batch.labels_BT))
            if mine:
                found.append(_predictions(mine, batch.of_windows(logits_BTL), temperature, keep_logits))
    own = _joined(found)
    gathered = ranks.gather_object((own, loss))
    if gathered is None:
        return own, loss
    return _joined([part for part, _ in gathered]), sum(part for _, part in gathered)


def _predictions(
    windows: Sequence[Window], logits: Sequence[torch.Tensor], temperature: float, keep_logits: bool
) -> Predictions:
    """The predictions of the words that the windows of a batch own, at their first sub-words.

    Args:
        logits: of each window, T x L.
    """
    owned = [window.owned_words for window in windows]
    firsts = [torch.from_numpy(words[:, 0].astype(np.int64)) for words in owned]
    logits_WL = torch.cat([logits_TL[tokens] for logits_TL, tokens in zip(logits, firsts, strict=True)])
    probabilities, labels = logits_WL.softmax(-1).max(-1)
    if temperature != 1.0:
        probabilities = (logits_WL / temperature).softmax(-1).gather(-1, labels[:, None])[:, 0]
    documents = np.repeat(np.array([window.document for window in windows], np.int32), list(map(len, owned)))
    words, ids = np.concatenate(owned)[:, 1].copy(), labels.numpy().astype(np.int16)
    kept = (logits_WL.numpy(),) if keep_logits else ()
    return Predictions(documents, words, ids, probabilities.numpy(), *kept)


def _joined(parts: Sequence[Predictions]) -> Predictions:
    columns = zip(*((one.documents, one.words, one.labels, one.probabilities) for one in parts), strict=True)
    kept = [one.logits for one in parts if len(one.logits)]
    return Predictions(*map(np.concatenate, columns), *([np.concatenate(kept)] if kept else []))


def in_document_order(found: Predictions, documents: Sequence[Document]) -> WordPredictions:
    """Predictions in the order of the documents and their words, one per word.

    Raises:
        AssertionError: a word has no prediction or several, or a prediction has no word. No input causes this: it
            checks for bugs in the merging of windows.
    """
    starts = ends_of(word_counts(documents))
    counts = np.diff(starts)
    known = found.documents < len(counts)
    known[known] = found.words[known] < counts[found.documents[known]]
    places = starts[found.documents[known]] + found.words[known]
    times = np.bincount(places, minlength=int(starts[-1]))
    wrong, foreign = np.flatnonzero(times != 1), np.flatnonzero(~known)
    if len(wrong) or len(foreign):
        if len(wrong):
            document = int(np.searchsorted(starts, wrong[0], side="right")) - 1
            where = f"{documents[document].name}, word {wrong[0] - starts[document]}"
        else:
            where = f"document {found.documents[foreign[0]]}, word {found.words[foreign[0]]}"
        raise AssertionError(
            f"coverage: {np.count_nonzero(times == 0)} of {len(times)} words have no label, "
            f"{np.count_nonzero(times > 1)} have several, and {len(foreign)} labels have no word; the first: {where}"
        )
    order = np.empty_like(places)
    order[places] = np.arange(len(places))
    logits = found.logits[order] if len(found.logits) else found.logits
    return WordPredictions(starts, found.labels[order], found.probabilities[order], logits)


def evaluate(
    forward: Forward,
    parts: Iterable[tuple[Sequence[Document], Windows]],
    labels: LabelSet,
    split: str,
    box_level: str,
    collator: Collator,
    limit: MicroBatchLimit,
    ranks: Ranks,
    errors: ErrorCounter | None = None,
    held: WordLogits | None = None,
    temperature: float = 1.0,
    fields: FieldCounter | None = None,
) -> Scores:
    """Score labelled documents. All ranks call it, and get the same result.

    Args:
        parts: chunks of documents with their windows, the same on every rank. Nothing of a chunk is kept.
        limit: see `label_words`.
        errors: counts the errors on rank 0.
        held: gets the logits on rank 0.
        temperature: see `label_words`.
        fields: counts the fields on rank 0.

    Raises:
        DataError: there is no word to score.
    """
    loss, sizes = 0.0, {"documents": 0, "windows": 0, "words": 0}
    nothing = np.zeros(len(labels.types), np.int64)
    entities = EntityCounts(nothing, nothing, nothing)

    def count(documents: Sequence[Document], answers: Predictions) -> EntityCounts:
        ordered = in_document_order(answers, documents)
        if errors is not None:
            errors.add(documents, ordered.starts, ordered.labels, ordered.probabilities, labels)
        if fields is not None:
            fields.add(documents, ordered.starts, ordered.labels, labels)
        truth = np.array([label for document in documents for label in labels.ids_of(document.tags or ())], np.int64)
        if held is not None:
            held.add(truth, ordered.labels, ordered.logits)
        return entities + count_entities(truth, ordered.labels, ordered.starts, labels)

    def scores() -> Scores:
        if not sizes["words"]:
            raise DataError(f"{split}: {sizes['documents']} documents and not one word to score")
        mean = loss / sizes["words"]
        return score(entities, labels, sizes, split=split, box_level=box_level, loss=mean)

    for documents, windows in parts:
        keep = held is not None
        answers, part = label_words(forward, windows, collator, limit, ranks, "evaluating", temperature, keep)
        entities = ranks.run_on_rank_zero(partial(count, documents, answers))
        loss += part
        sizes["documents"] += len(documents)
        sizes["windows"] += len(windows)
        sizes["words"] += int(word_counts(documents).sum())
    result: Scores = ranks.run_on_rank_zero(scores)
    return result
