"""What a model gets wrong on scored documents: kinds of errors, confused types, probabilities, and the worst pages.

Kept in constant memory: counts over all documents, and the `WORST_PAGES` pages with most errors.
"""

import heapq
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from layoutner.errors import CheckpointError, LayoutnerError
from layoutner.files.arrays import Array
from layoutner.files.artefact import Artefact
from layoutner.pages.document import Box, Document
from layoutner.pages.labels import LabelSet, Span, to_spans

Kind = Literal["correct", "wrong boundary", "wrong type", "missed", "spurious"]
KINDS: tuple[Kind, ...] = ("correct", "wrong boundary", "wrong type", "missed", "spurious")
NO_TYPE = "O"  # the type of a word outside all entities

WORST_PAGES = 50
BINS = 10  # of probabilities


class Pair(NamedTuple):
    """A true entity with the predicted one that it is compared with. One of them is None if it has no counterpart."""

    kind: Kind
    truth: Span | None
    predicted: Span | None

    @property
    def type(self) -> str:
        """The type under which the pair is counted: that of the truth, or of a spurious prediction."""
        return (self.truth or self.predicted).type  # type: ignore[union-attr]


class ComparedEntity(BaseModel):
    """A `Pair` on a page. An entity is its type, first word, and the word after its last."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    truth: tuple[str, int, int] | None
    predicted: tuple[str, int, int] | None


class WrongPage(BaseModel):
    """A page with its errors."""

    model_config = ConfigDict(frozen=True)

    document: str
    page_size: tuple[float, float]
    image: str | None  # path of the page image; None = there is none
    frame: int | None
    words: tuple[str, ...]
    boxes: tuple[Box, ...]  # in thousandths of the page's width and height
    probabilities: tuple[float, ...]  # of the predicted tags
    entities: tuple[ComparedEntity, ...]

    @property
    def errors(self) -> int:
        """Number of its pairs that are not correct."""
        return sum(one.kind != "correct" for one in self.entities)


class Bin(BaseModel):
    """Words whose predicted tag has a probability in one tenth of 0 to 1."""

    model_config = ConfigDict(frozen=True)

    words: int
    correct: int  # words whose tag is right
    probability: float  # sum over the words


class Errors(Artefact):
    """What a model got wrong; errors.json in the folder of a run."""

    refused_as: ClassVar[type[LayoutnerError]] = CheckpointError

    split: str
    documents: int
    kinds: dict[str, dict[Kind, int]]  # type -> kind -> number of pairs
    types: tuple[str, ...]  # rows and columns of `confusion`; the first is NO_TYPE
    confusion: tuple[tuple[int, ...], ...]  # words by true type (row) and predicted type (column)
    bins: tuple[Bin, ...]  # by probability, ascending
    pages: tuple[WrongPage, ...]  # most errors first; none without an error

    @property
    def calibration_error(self) -> float:
        """See `calibration_error`."""
        return calibration_error(self.bins)


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: mean over words of |share of right tags - mean probability| in the word's bin.

    Source: Naeini, Cooper and Hauskrecht 2015, https://doi.org/10.1609/aaai.v29i1.9602, with bins of equal width.
    """
    words = sum(one.words for one in bins)
    return sum(abs(one.correct - one.probability) for one in bins) / words if words else 0.0


def probability_bins(probabilities: Array, right: Array) -> tuple[Bin, ...]:
    """Words by the probability of their predicted tag.

    Args:
        probabilities: one per word.
        right: whether the word's tag is.
    """
    bins = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
    counts = (np.bincount(bins, minlength=BINS), np.bincount(bins[right], minlength=BINS))
    sums = np.bincount(bins, probabilities, minlength=BINS)
    columns = zip(*(column.tolist() for column in (*counts, sums)), strict=True)
    return tuple(Bin(words=words, correct=correct, probability=total) for words, correct, total in columns)


def pair_entities(truth: Sequence[Span], predicted: Sequence[Span]) -> list[Pair]:
    """Pair the entities of two labellings of one page, each with at most one of the other.

    Entities that share words are paired: the same words and type first, then the same words, then the same type, then
    any; among equals those that share most words. The same type on other words is a wrong boundary, another type is a
    wrong type, whatever its words. What is left of the truth is missed, what is left of the prediction is spurious.

    Args:
        truth, predicted: in order of their words; entities of one labelling do not overlap.

    Returns:
        The pairs, in order of their first words.
    """
    candidates = []
    begin = 0
    for number, one in enumerate(truth):
        while begin < len(predicted) and predicted[begin].end <= one.start:
            begin += 1
        for place in range(begin, len(predicted)):
            other = predicted[place]
            if other.start >= one.end:
                break
            same_words, same_type = (one.start, one.end) == (other.start, other.end), one.type == other.type
            shared = min(one.end, other.end) - max(one.start, other.start)
            rank = (not (same_words and same_type), not same_words, not same_type, -shared)
            candidates.append((rank, number, place))
    pairs, left, found = [], set(range(len(truth))), set(range(len(predicted)))
    for _, number, place in sorted(candidates):
        if number in left and place in found:
            left.remove(number)
            found.remove(place)
            one, other = truth[number], predicted[place]
            kind: Kind = "wrong type" if one.type != other.type else "correct" if one == other else "wrong boundary"
            pairs.append(Pair(kind, one, other))
    pairs += [Pair("missed", truth[number], None) for number in left]
    pairs += [Pair("spurious", None, predicted[place]) for place in found]
    return sorted(pairs, key=lambda pair: min(span.start for span in (pair.truth, pair.predicted) if span is not None))


class ErrorCounter:
    """Adds up the errors of documents that come in chunks. Only rank 0 uses it."""

    def __init__(self) -> None:
        self._documents = 0
        self._kinds: dict[str, dict[Kind, int]] = {}
        self._types: tuple[str, ...] = (NO_TYPE,)
        self._confusion = np.zeros((1, 1), np.int64)
        self._words = np.zeros((BINS, 2), np.int64)  # all, right
        self._probability = np.zeros(BINS)
        self._worst: list[tuple[int, int, WrongPage]] = []  # a heap: errors, minus the document's number, page

    def add(
        self, documents: Sequence[Document], starts: Array, predicted: Array, probabilities: Array, labels: LabelSet
    ) -> None:
        """Count a chunk of labelled documents.

        Args:
            starts: where the words of each document begin in the arrays, and where the last one's end.
            predicted: label id of each word.
            probabilities: of these labels.
            labels: the label set of the ids, the same at every call.
        """
        types = (NO_TYPE, *labels.types)
        if len(self._types) == 1:
            self._types, self._confusion = types, np.zeros((len(types), len(types)), np.int64)
        truth = np.array([label for document in documents for label in labels.ids_of(document.tags or ())], np.int64)
        self._count_words(truth, predicted, probabilities, labels)
        tags = labels.tags
        for number, document in enumerate(documents):
            words = slice(int(starts[number]), int(starts[number + 1]))
            mine = to_spans([tags[label] for label in predicted[words]])
            pairs = pair_entities(to_spans(document.tags or ()), mine)
            for pair in pairs:
                row = self._kinds.setdefault(pair.type, dict.fromkeys(KINDS, 0))
                row[pair.kind] += 1
            self._keep_if_bad(document, pairs, probabilities[words])
            self._documents += 1

    def _count_words(self, truth: Array, predicted: Array, probabilities: Array, labels: LabelSet) -> None:
        index = {kind: number for number, kind in enumerate(self._types)}
        of_tag = np.array([index[tag.partition("-")[2] or NO_TYPE] for tag in labels.tags])
        np.add.at(self._confusion, (of_tag[truth], of_tag[predicted]), 1)
        for number, one in enumerate(probability_bins(probabilities, truth == predicted)):
            self._words[number] += (one.words, one.correct)
            self._probability[number] += one.probability

    def _keep_if_bad(self, document: Document, pairs: Sequence[Pair], probabilities: Array) -> None:
        wrong = sum(pair.kind != "correct" for pair in pairs)
        if not wrong or (len(self._worst) == WORST_PAGES and wrong <= self._worst[0][0]):
            return
        image = document.image
        page = WrongPage(
            document=_text(document.name),
            page_size=document.page_size,
            image=None if image is None else _text(str(image.path.absolute())),
            frame=None if image is None else image.frame,
            words=tuple(map(_text, document.words)),
            boxes=document.boxes,
            probabilities=tuple(round(float(one), 4) for one in probabilities),
            entities=tuple(ComparedEntity(**pair._asdict()) for pair in pairs),
        )
        keep = heapq.heappush if len(self._worst) < WORST_PAGES else heapq.heapreplace
        keep(self._worst, (wrong, -self._documents, page))

    def result(self, split: str) -> Errors:
        """The counts, and the pages with most errors."""
        return Errors(
            split=split,
            documents=self._documents,
            kinds=dict(sorted(self._kinds.items())),
            types=self._types,
            confusion=tuple(map(tuple, self._confusion.tolist())),
            bins=tuple(
                Bin(words=words, correct=right, probability=probability)
                for (words, right), probability in zip(self._words.tolist(), self._probability.tolist(), strict=True)
            ),
            pages=tuple(page for _, _, page in sorted(self._worst, key=lambda one: (-one[0], -one[1]))),
        )


def _text(found: str) -> str:
    """A text that UTF-8 has: lone surrogates, from file names or JSON, as escapes."""
    return found.encode("utf-8", "backslashreplace").decode("utf-8")
