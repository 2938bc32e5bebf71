"""A field: an entity of a document with its value, and how sure the model is of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from layoutner.pages.document import Box


@dataclass(frozen=True)
class FieldWord:
    """A word of a page, or of a field."""

    text: str
    box: Box  # in thousandths of the page's width and height
    probability: float  # of its predicted label


@dataclass(frozen=True)
class Field:
    """An entity of a document."""

    type: str
    value: str | None  # normalised; the text if the type has no normaliser; None = it cannot be normalised
    text: str  # its words, as they stand on the page
    confidence: float  # see `confidence_of`
    page: int  # of the document, from 1
    box: Box  # around its words, in thousandths of the page's width and height
    words: tuple[FieldWord, ...]
    number: int  # among the fields of its type in the document, from 1, in reading order
    problem: str | None = None  # why it should be reviewed; None = it need not be

    def to_dict(self) -> dict[str, Any]:
        """The field as a JSON object, without its type."""
        return {
            "value": self.value,
            "text": self.text,
            "confidence": round(self.confidence, 6),
            "page": self.page,
            "box": list(self.box),
            "words": [
                {"text": word.text, "box": list(word.box), "probability": round(word.probability, 6)}
                for word in self.words
            ],
            "number": self.number,
            **({} if self.problem is None else {"review": self.problem}),
        }


def confidence_of(words: Sequence[FieldWord], start: int, end: int) -> float:
    """The confidence of an entity: the product of the probabilities of its words and of the two words around it.

    It is the probability that all of these have the right label, if they were independent: a word too few or too many
    makes an entity wrong as well. On receipts it was nearer to the share of right entities than the minimum and the
    means, with or without the words around (`benchmarks/confidence.py`).

    Args:
        words: of the page.
        start, end: index of the entity's first word, and after its last.
    """
    return math.prod(word.probability for word in words[max(0, start - 1) : end + 1])
