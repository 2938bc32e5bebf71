"""The list of fields that somebody should look at: least certain first."""

from layoutner.fields.field import Field
from layoutner.fields.record import Record
from layoutner.fields.table import csv_line

COLUMNS = ("document", "page", "type", "text", "confidence", "reason")


class ReviewList:
    """Collects the fields with a problem. They stay in memory until the end, as they are sorted then."""

    def __init__(self) -> None:
        self._found: list[tuple[str, Field]] = []

    def add(self, record: Record) -> None:
        """Take the fields of a document that have a problem."""
        self._found += [
            (record.document, field) for fields in record.fields.values() for field in fields if field.problem
        ]

    def __len__(self) -> int:
        return len(self._found)

    def to_csv(self) -> str:
        """The list as CSV, with a header."""
        ordered = sorted(self._found, key=lambda found: found[1].confidence)
        lines = [
            csv_line((name, str(field.page), field.type, field.text, f"{field.confidence:.4f}", str(field.problem)))
            for name, field in ordered
        ]
        return csv_line(COLUMNS) + "".join(lines)
