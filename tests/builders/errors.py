"""Errors of a model that nobody trained: pages with chosen true and predicted tags."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from layoutner.corpus.windows import ends_of
from layoutner.files.image import PageImage
from layoutner.objectives.errors import ErrorCounter, Errors
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet


def tagged_page(name: str, words: Sequence[str], tags: Sequence[str], image: Path | None = None) -> Document:
    """A page of 600 x 800 whose words are in one column."""
    boxes = tuple((100, 40 * index + 20, 700, 40 * index + 50) for index in range(len(words)))
    found = None if image is None else PageImage(image)
    return Document(name, tuple(words), boxes, tuple(tags), (600, 800), image=found)


def errors_of(pages: Sequence[tuple[Document, Sequence[str]]], labels: LabelSet) -> Errors:
    """The errors of pages with their predicted tags, each with a probability of 0.75."""
    counter = ErrorCounter()
    documents = [document for document, _ in pages]
    predicted = np.array([labels.ids[tag] for _, tags in pages for tag in tags])
    starts = ends_of(len(document.words) for document in documents)
    counter.add(documents, starts, predicted, np.full(len(predicted), 0.75, np.float32), labels)
    return counter.result("test")
