"""Amazon Textract: responses of DetectDocumentText, AnalyzeDocument and AnalyzeExpense, in fractions of the page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layoutner.errors import DataError
from layoutner.files.text import read_json
from layoutner.ocr_results.result_files import LARGEST_JSON, ResultPage, read_results
from layoutner.pages.page import Page, Problem, Word
from layoutner.pages.text_lines import LineBox, around, cut_line, reading_order

ROW = "EXPENSE_ROW"  # the type of a field that repeats the other fields of its row


def read(path: Path, role: str) -> Iterator[Page | Problem]:
    """Read a Textract response or a folder of them. Lines are segments.

    A file may have one response, or a list of the parts of a long one. Turned text gets the upright box around it. A
    response of AnalyzeExpense without blocks has fields only, whose boxes are divided among their words. Responses of
    AnalyzeID are read if they have blocks.

    Args:
        path: a file, or a folder of .json files.
        role: ignored.

    Raises:
        DataError: the folder holds no such file.
    """
    yield from read_results(path, (".json",), "an Amazon Textract response", _parse)


def _parse(file: Path, notes: list[str]) -> list[ResultPage]:
    content = read_json(file, LARGEST_JSON, notes)
    parts = content if isinstance(content, list) else [content]
    if parts and parts[-1].get("NextToken"):
        raise DataError(f"{file}: the response goes on (NextToken): write all of its parts as a list into one file")
    blocks = [block for part in parts for block in part.get("Blocks") or ()]
    expenses = [expense for part in parts for expense in part.get("ExpenseDocuments") or ()]
    identities = [identity for part in parts for identity in part.get("IdentityDocuments") or ()]
    blocks += [block for document in (*expenses, *identities) for block in document.get("Blocks") or ()]
    if blocks:
        return _pages_of_blocks(blocks)
    if expenses:
        return _pages_of_fields(expenses)
    status = next((part["JobStatus"] for part in parts if part.get("JobStatus")), None)
    raise DataError(
        f"{file}: a Textract response without blocks{f' (JobStatus {status})' if status else ''}: DetectDocumentText, "
        "AnalyzeDocument and AnalyzeExpense have them"
    )


def _pages_of_blocks(blocks: list[Any]) -> list[ResultPage]:
    words: dict[str, Any] = {}
    pages: dict[int, list[Word]] = {}
    for block in blocks:
        pages.setdefault(int(block.get("Page", 1)), [])
        if block["BlockType"] == "WORD":
            words[block["Id"]] = block
    number = 0
    for block in blocks:
        if block["BlockType"] == "LINE":
            for relation in block.get("Relationships") or ():
                if relation["Type"] == "CHILD":
                    for word in relation["Ids"]:
                        _add(words.pop(word, None), number, pages)
            number += 1
    for left in list(words.values()):  # words that are in no line
        _add(left, number, pages)
        number += 1
    return [ResultPage(pages[page], None, "fractions") for page in sorted(pages)]


def _add(block: Any, line: int, pages: dict[int, list[Word]]) -> None:
    if block is not None:
        pages[int(block.get("Page", 1))].append(Word(block["Text"], _box(block["Geometry"]), None, line))


def _pages_of_fields(expenses: list[Any]) -> list[ResultPage]:
    found: dict[int, dict[tuple[str, LineBox], None]] = {}  # page -> texts; the same text may be in several fields
    for expense in expenses:
        fields = list(expense.get("SummaryFields") or ())
        for group in expense.get("LineItemGroups") or ():
            for item in group["LineItems"]:
                fields += item["LineItemExpenseFields"]
        for field in fields:
            page = found.setdefault(int(field.get("PageNumber", 1)), {})
            parts = [field.get("LabelDetection")]
            if (field.get("Type") or {}).get("Text") != ROW:
                parts.append(field.get("ValueDetection"))
            for part in parts:
                if part and part.get("Geometry") and part["Text"].strip():
                    page[part["Text"], _box(part["Geometry"])] = None
    return [ResultPage(_words_of_fields(list(found[page])), None, "fractions") for page in sorted(found)]


def _words_of_fields(fields: list[tuple[str, LineBox]]) -> list[Word]:
    words = []
    for number, index in enumerate(reading_order([box for _, box in fields])):
        text, (x0, y0, x1, y1) = fields[index]
        lines = [line for line in text.split("\n") if line.strip()]
        height = (y1 - y0) / len(lines)
        for row, line in enumerate(lines):
            box = x0, y0 + row * height, x1, y0 + (row + 1) * height
            words += [Word(word, part, None, number) for word, part in cut_line(line, box)]
    return words


def _box(geometry: Any) -> LineBox:
    """The upright box of a polygon, which may be turned; else the BoundingBox."""
    if polygon := geometry.get("Polygon"):
        return around([(point["X"], point["Y"]) for point in polygon])
    box = geometry["BoundingBox"]
    return box["Left"], box["Top"], box["Left"] + box["Width"], box["Top"] + box["Height"]
