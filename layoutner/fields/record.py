"""The record of a document: the fields of all its pages."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import count
from typing import Any, NamedTuple

from layoutner.errors import DataError
from layoutner.fields.field import Field, FieldWord, confidence_of
from layoutner.fields.normaliser import Normaliser
from layoutner.pages.document import union
from layoutner.pages.labels import Span


class FieldPage(NamedTuple):
    """A labelled page, as far as fields need it."""

    name: str
    group: str | None  # the document that the page belongs to; None = it is a document of its own
    page_size: tuple[float, float]
    words: Sequence[FieldWord]
    spans: Sequence[Span]  # its entities, in reading order


@dataclass(frozen=True)
class Rules:
    """How entities become fields."""

    normalisers: Mapping[str, Normaliser]  # by entity type
    min_confidence: float = 0.0  # a field below it is to be reviewed


@dataclass(frozen=True)
class Record:
    """A document with its fields."""

    document: str  # the group of its pages, or the name of its only page
    pages: tuple[tuple[str, tuple[float, float]], ...]  # name, and width and height
    fields: Mapping[str, tuple[Field, ...]]  # every type of the model -> its fields in reading order

    def to_dict(self) -> dict[str, Any]:
        """The record as a JSON object, as `layoutner predict --output-format fields` writes it."""
        return {
            "document": self.document,
            "fields": {kind: [field.to_dict() for field in fields] for kind, fields in self.fields.items()},
            "pages": [{"name": name, "page_size": list(size)} for name, size in self.pages],
        }


def make_record(pages: Sequence[FieldPage], types: Sequence[str], rules: Rules) -> Record:
    """The record of the pages of one document, in their order.

    Args:
        types: all entity types of the model.
    """
    first = pages[0]
    fields: dict[str, list[Field]] = {kind: [] for kind in types}
    for number, page in enumerate(pages, 1):
        for span in page.spans:
            fields[span.type].append(_field(page, number, span, len(fields[span.type]) + 1, rules))
    return Record(
        first.name if first.group is None else first.group,
        tuple((page.name, page.page_size) for page in pages),
        {kind: tuple(found) for kind, found in fields.items()},
    )


def _field(page: FieldPage, page_number: int, span: Span, number: int, rules: Rules) -> Field:
    words = tuple(page.words[span.start : span.end])
    text = " ".join(word.text for word in words)
    confidence = confidence_of(page.words, span.start, span.end)
    value: str | None = text
    problem = f"confidence below {rules.min_confidence:g}" if confidence < rules.min_confidence else None
    if normalise := rules.normalisers.get(span.type):
        try:
            value = normalise(text)
        except ValueError as error:
            value, problem = None, str(error)
    box = reduce(union, (word.box for word in words))
    return Field(span.type, value, text, confidence, page_number, box, words, number, problem)


class RecordStream:
    """Makes records of pages that come one by one. A document is complete when a page of another one comes.

    A page without a group is complete at once. The pages of a group must come one after the other.
    """

    def __init__(self, types: Sequence[str], rules: Rules) -> None:
        self._types, self._rules = types, rules
        self._open: list[FieldPage] = []  # pages of the document that is not complete yet
        self._done: set[str] = set()  # groups that are complete

    def add(self, pages: Iterable[FieldPage]) -> Iterator[Record]:
        """Take pages, and yield the documents that they complete.

        Raises:
            DataError: a page belongs to a document that is complete already.
        """
        for page in pages:
            if self._open and page.group != self._open[0].group:
                yield self._close()
            if page.group is None:
                yield make_record([page], self._types, self._rules)
            elif page.group in self._done:
                raise DataError(
                    f"page {page.name!r} belongs to the document {page.group!r}, but other documents come in between: "
                    "put the pages of a document one after the other"
                )
            else:
                self._open.append(page)

    def end(self) -> Iterator[Record]:
        """Yield the document that is still open, if there is one."""
        if self._open:
            yield self._close()

    def _close(self) -> Record:
        pages, self._open = self._open, []
        self._done.add(str(pages[0].group))
        return make_record(pages, self._types, self._rules)


def group_pages(pages: Sequence[FieldPage]) -> list[list[int]]:
    """The numbers of the pages of each document, documents in the order of their first pages."""
    own = count()
    documents: dict[tuple[str | None, int], list[int]] = {}
    for number, page in enumerate(pages):
        key = (None, next(own)) if page.group is None else (page.group, -1)
        documents.setdefault(key, []).append(number)
    return list(documents.values())
