"""A page with the model's labels: every word with its label and probability, and the entities they make."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from layoutner.files.image import PageImage
from layoutner.objectives.evaluate import WordPrediction
from layoutner.pages.document import Box, Document, union
from layoutner.pages.labels import LabelSet, rewrite, to_spans


@dataclass(frozen=True)
class LabelledWord:
    """A word with its label."""

    text: str
    box: Box  # x0, y0, x1, y1, in thousandths of the page's width and height
    label: str  # "O", or prefix-type such as "B-TOTAL"
    probability: float  # the model's, of its own answer


@dataclass(frozen=True)
class Entity:
    """Words of one type that belong together."""

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
        """The page as `layoutner predict` writes it, one JSON object.

        Args:
            folder: where the object will be written. A page image in it is named, relative to it. None: no image is
                named.
        """
        document = self.document
        given = document.segments
        segments: list[dict[str, int]] = [{} for _ in self.words] if given is None else [{"segment": n} for n in given]
        return {
            "document": document.name,
            "page_size": list(document.page_size),
            **_image(document.image, folder),
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
    """Give a page the model's answers.

    The entities are those of `to_spans`, and a word's label is its place in its entity. So the label is the model's
    answer, unless the answers are no legal sequence: a lone I-TOTAL becomes B-TOTAL. The probability is the answer's.

    Args:
        document: the page.
        answers: one per word.
        labels: what the answers' ids mean.
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


def _image(image: PageImage | None, folder: Path | None) -> dict[str, str | int]:
    """{"image": name}, and "frame" in a file of several, where a reader of the folder may open it."""
    if image is None or folder is None:
        return {}
    frame = {} if image.frame is None else {"frame": image.frame}
    # As it was named, which may be by a link in the folder; else as it is without links.
    for path, root in ((image.path.absolute(), folder.absolute()), (image.path.resolve(), folder.resolve())):
        if path.is_relative_to(root) and ".." not in path.parts:
            return {"image": path.relative_to(root).as_posix(), **frame}
    return {}
