"""Field accuracy: what counts as a field of a document, and when it is right."""

import numpy as np

from layoutner.objectives.field_accuracy import FieldCounter
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet

LABELS = LabelSet.from_tags(["O", "B-DATE", "I-DATE", "B-TOTAL", "I-TOTAL"])


def page(words: str, tags: str, group: str | None = None) -> Document:
    number = len(words.split())
    boxes = tuple((10 * n, 0, 10 * n + 5, 5) for n in range(number))
    return Document(words, tuple(words.split()), boxes, tuple(tags.split()), (100, 100), group=group)


def counted(*pages: tuple[Document, str]) -> dict[str, float]:
    """The counts of pages with their predicted tags."""
    counter = FieldCounter()
    for document, predicted in pages:
        ids = np.array([LABELS.tags.index(tag) for tag in predicted.split()], np.int16)
        counter.add([document], np.array([0, len(ids)]), ids, LABELS)
    return counter.to_dict()


def test_a_field_is_right_if_its_texts_are() -> None:
    truth = page("3 May total 9 9", "B-DATE I-DATE O B-TOTAL O")
    assert counted((truth, "B-DATE I-DATE O B-TOTAL O")) == {"fields": 2, "right": 2, "accuracy": 1.0}
    assert counted((truth, "B-DATE O O B-TOTAL O")) == {"fields": 2, "right": 1, "accuracy": 0.5}
    # Another word with the same text is as good for a table of values.
    assert counted((truth, "B-DATE I-DATE O O B-TOTAL"))["right"] == 2
    # One entity too many makes a field wrong, and so does one that the document does not have.
    assert counted((truth, "B-DATE I-DATE O B-TOTAL B-TOTAL"))["right"] == 1
    assert counted((page("a b", "O O"), "B-TOTAL O")) == {"fields": 1, "right": 0, "accuracy": 0.0}
    assert counted((page("a b", "O O"), "O O")) == {"fields": 0, "right": 0, "accuracy": 0.0}


def test_the_pages_of_a_group_are_one_document() -> None:
    first, second = page("3 May", "B-DATE I-DATE", "x"), page("9 8", "B-TOTAL O", "x")
    alone = page("9 8", "B-TOTAL O")
    assert counted((first, "B-DATE I-DATE"), (alone, "B-TOTAL O"), (second, "B-TOTAL O"))["fields"] == 3
    # The total of the document is on its second page, and the first page has one that is wrong.
    found = counted((first, "B-TOTAL O"), (second, "B-TOTAL O"))
    assert found == {"fields": 2, "right": 0, "accuracy": 0.0}
