"""A field: an entity of a document with its value, and how sure the model is of it."""

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


def confidence_of(probabilities: Sequence[float]) -> float:
    """The confidence of an entity: the smallest probability of its words, as one wrong word makes it wrong.

    Args:
        probabilities: of the predicted labels of its words; at least one.
    """
    return min(probabilities)
