"""Count the entities that two labellings of the same words have in common, with arrays.

The entities are those of `pages.labels.to_spans`, which reads one tag sequence. Counts can be added up, so
documents may come in chunks.
"""

from dataclasses import dataclass

import numpy as np

from layoutner.files.arrays import Array
from layoutner.pages.labels import LabelSet

CONTINUES, ENDS = ("I", "E"), ("E", "S")  # prefixes


@dataclass(frozen=True)
class EntityCounts:
    """Entities by type, in the order of the label set's types."""

    truth: Array
    predicted: Array
    correct: Array  # in both: the same type, first word and last word
    documents: int = 0
    # Sums over documents, all types together, of (2c)^2, 2c (t + p) and (t + p)^2 for c correct, t true and p predicted
    # entities. They are Python's integers, so nothing is rounded.
    squares: tuple[int, int, int] = (0, 0, 0)

    def __add__(self, other: "EntityCounts") -> "EntityCounts":
        first, second, third = (one + more for one, more in zip(self.squares, other.squares, strict=True))
        return EntityCounts(
            self.truth + other.truth,
            self.predicted + other.predicted,
            self.correct + other.correct,
            self.documents + other.documents,
            (first, second, third),
        )


def count_entities(truth: Array, predicted: Array, starts: Array, labels: LabelSet) -> EntityCounts:
    """Count the entities of some documents.

    Args:
        truth: label ids of all words, document after document.
        predicted: of the same words.
        starts: where the words of each document begin, and where the last one's end.
    """
    reader = _Reader(labels, starts)
    true_types, *true_places = reader.entities(truth)
    types, *places = reader.entities(predicted)
    # An entity has its first word for itself, so entities are paired by it.
    _, ours, theirs = np.intersect1d(true_places[0], places[0], assume_unique=True, return_indices=True)
    same = (true_types[ours] == types[theirs]) & (true_places[1][ours] == places[1][theirs])
    number, documents = len(labels.types), len(starts) - 1
    by_type = (np.bincount(found, minlength=number) for found in (true_types, types, true_types[ours][same]))
    whole_truth, whole_predicted, whole_correct = by_type
    firsts = (true_places[0], places[0], true_places[0][ours][same])
    true, found, correct = (_by_document(first, starts) for first in firsts)
    both, twice = true + found, 2 * correct
    squares = (int(twice @ twice), int(twice @ both), int(both @ both))
    return EntityCounts(whole_truth, whole_predicted, whole_correct, documents, squares)


def _by_document(words: Array, starts: Array) -> Array:
    """How many of these words each document has. A document without words ends where it begins, and has none."""
    counts: Array = np.bincount(np.searchsorted(starts, words, side="right") - 1, minlength=len(starts) - 1)
    return counts


class _Reader:
    """Finds the entities of labellings."""

    def __init__(self, labels: LabelSet, starts: Array) -> None:
        parts = [tag.partition("-") for tag in labels.tags]
        number = {kind: index for index, kind in enumerate(labels.types)}
        self._types = np.array([number.get(kind, -1) for _, _, kind in parts])
        self._outside = np.array([prefix == "O" for prefix, _, _ in parts])
        self._continues = np.array([prefix in CONTINUES for prefix, _, _ in parts])
        self._ends = np.array([prefix in ENDS for prefix, _, _ in parts])
        self._is_first = np.zeros(int(starts[-1]) + 1, bool)  # of its document; the last element ends the last one
        self._is_first[starts] = True

    def entities(self, ids: Array) -> tuple[Array, Array, Array]:
        """Type, first word and last word of each entity."""
        types, outside = self._types[ids], self._outside[ids]
        continues = np.zeros(len(ids) + 1, bool)  # whether a word belongs to the entity of the word before
        continues[1:-1] = (
            self._continues[ids[1:]]
            & ~self._is_first[1:-1]
            & ~outside[:-1]
            & ~self._ends[ids[:-1]]
            & (types[1:] == types[:-1])
        )
        first = np.flatnonzero(~outside & ~continues[:-1])
        last = np.flatnonzero(~outside & ~continues[1:])
        return types[first], first, last
