"""A page with predictions: every word with its label and probability, and the entities."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from layoutner.objectives.evaluate import WordPrediction
from layoutner.pages.document import Box, Document, union
from layoutner.pages.labels import LabelSet, rewrite, to_spans
from layoutner.pages.page_object import image_keys


@dataclass(frozen=True)
class LabelledWord:
    """A word with its predicted label."""

    text: str
    box: Box  # x0, y0, x1, y1, in thousandths of the page's width and height
    label: str  # "O", or prefix-type such as "B-TOTAL"
    probability: float  # the model's probability of the label it predicted


@dataclass(frozen=True)
class Entity:
    """A predicted entity: consecutive words with one type."""

    type: str
    text: str
    box: Box  # around its words, in thousandths of the page's width and height
    start: int  # index of its first word
    end: int  # index after its last word


@dataclass(frozen=True)
class LabelledPage:
    """A page with its words and entities, in reading order."""

    document: Document
    words: tuple[LabelledWord, ...]
    entities: tuple[Entity, ...]

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """The page as a JSON object, as `layoutner predict` writes it.

        Args:
            folder: folder of the output file. If the page image is inside it, the object contains the image's relative
                path. None: the object contains no image path.
        """
        document = self.document
        given = document.segments
        segments: list[dict[str, int]] = [{} for _ in self.words] if given is None else [{"segment": n} for n in given]
        return {
            "document": document.name,
            "page_size": list(document.page_size),
            **image_keys(document.image, folder),
            **({} if document.group is None else {"group": document.group}),
            **({} if document.breaks is None else {"breaks": list(document.breaks)}),
            "words": [
                {
                    "text": word.text,
                    "box": list(word.box),
                    **segment,
                    "label": word.label,
                    "probability": round(word.probability, 6),
                }
                for word, segment in zip(self.words, segments, strict=True)
            ],
            "entities": [
                {"type": one.type, "text": one.text, "box": list(one.box), "words": [one.start, one.end]}
                for one in self.entities
            ],
        }


def label_page(document: Document, answers: Sequence[WordPrediction], labels: LabelSet) -> LabelledPage:
    """Combine a page with the model's predictions.

    Entities are read from the predicted tags by `to_spans`. A word's label is the predicted tag, unless the tag
    sequence is not valid in the scheme: a lone I-TOTAL becomes B-TOTAL. The probability is that of the predicted tag.

    Args:
        document: the page.
        answers: one prediction per word.
        labels: the label set of the prediction ids.
    """
    tags = labels.tags
    names = rewrite([tags[answer.label] for answer in answers], labels.scheme)
    words = tuple(
        LabelledWord(text, box, name, answer.probability)
        for text, box, name, answer in zip(document.words, document.boxes, names, answers, strict=True)
    )
    entities = tuple(
        Entity(kind, " ".join(document.words[start:end]), reduce(union, document.boxes[start:end]), start, end)
        for kind, start, end in to_spans(names)
    )
    return LabelledPage(document, words, entities)
