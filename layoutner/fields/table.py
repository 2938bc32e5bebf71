"""Records as CSV (RFC 4180): one row per document, safe to open with a spreadsheet."""

import csv
import io
import re
from collections.abc import Collection, Sequence

from layoutner.fields.field import Field
from layoutner.fields.record import Record

SEPARATOR = " | "  # between several fields of a type
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20|%]|[\t\r\n]")  # what spreadsheets take for a formula's begin
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def header(types: Sequence[str], normalised: Collection[str]) -> str:
    """The first line.

    Args:
        types: all entity types of the model.
        normalised: those with a normaliser, which have a column for the text on the page, too.
    """
    columns = ["document", "pages"]
    for kind in types:
        columns += [kind, *([f"{kind} text"] if kind in normalised else []), f"{kind} confidence"]
    return csv_line([*columns, "review"])


def row(record: Record, normalised: Collection[str]) -> str:
    """The line of a document.

    Several fields of a type are joined by `SEPARATOR`, in reading order. The value of a field that is to be reviewed is
    left out, and its type is named in the last column.
    """
    cells = [record.document, str(len(record.pages))]
    for kind, fields in record.fields.items():
        cells.append(_joined([_value(field) for field in fields]))
        if kind in normalised:
            cells.append(_joined([field.text for field in fields]))
        cells.append(_joined([f"{field.confidence:.4f}" for field in fields]))
    doubtful = [kind for kind, fields in record.fields.items() if any(field.problem for field in fields)]
    return csv_line([*cells, _joined(doubtful)])


def csv_line(cells: Sequence[str]) -> str:
    """A line of CSV.

    A cell that a spreadsheet would take for a formula begins with an apostrophe; numbers such as -12.50 do not.
    """
    out = io.StringIO()
    csv.writer(out).writerow([_harmless(cell) for cell in cells])
    return out.getvalue()


def _value(field: Field) -> str:
    return "" if field.value is None or field.problem is not None else field.value


def _joined(parts: Sequence[str]) -> str:
    return SEPARATOR.join(parts)


def _harmless(cell: str) -> str:
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell
