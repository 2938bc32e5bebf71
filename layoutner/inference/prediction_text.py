"""Predictions as text: page by page, or document by document."""

from collections.abc import Iterable, Sequence
from typing import Any

from layoutner.fields.record import Record, RecordStream, Rules
from layoutner.fields.review import ReviewList
from layoutner.fields.table import header, row
from layoutner.inference.labelled_page import LabelledPage
from layoutner.inference.output import to_unilm
from layoutner.inference.result import field_page
from layoutner.pages.page_object import json_line


class PageText:
    """Predictions as text, page by page."""

    def __init__(self, format: str) -> None:
        self._to_text = {"jsonl": json_line, "unilm": to_unilm}[format]

    def begin(self) -> str:
        """What stands before the first page."""
        return ""

    def add(self, pages: Sequence[LabelledPage], dicts: Sequence[dict[str, Any]]) -> str:
        """The text of these pages, and of their `to_dict`."""
        return "".join(map(self._to_text, dicts))

    def end(self) -> str:
        """What stands after the last page."""
        return ""


class DocumentText:
    """Predictions as text, document by document, with a list of what is to be reviewed. As `PageText`."""

    def __init__(self, format: str, types: Sequence[str], rules: Rules) -> None:
        self.review = ReviewList()
        self._is_table, self._types, self._normalised = format == "csv", types, rules.normalisers.keys()
        self._records = RecordStream(types, rules)

    def begin(self) -> str:
        return header(self._types, self._normalised) if self._is_table else ""

    def add(self, pages: Sequence[LabelledPage], dicts: Sequence[dict[str, Any]]) -> str:
        return self._text(self._records.add(map(field_page, pages)))

    def end(self) -> str:
        return self._text(self._records.end())

    def _text(self, records: Iterable[Record]) -> str:
        lines = []
        for record in records:
            self.review.add(record)
            lines.append(row(record, self._normalised) if self._is_table else json_line(record.to_dict()))
        return "".join(lines)
