"""What a path holds that is of another kind than the format it is read in, told from the beginning of its files."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from layoutner.errors import DataError
from layoutner.files.image import SUFFIXES, page_images
from layoutner.files.text import is_hidden
from layoutner.pages.key_values import RULES

BEGINNING = 2**18  # bytes of a file that are looked at
MOST_FILES = 50  # of a folder that are looked at
DEEPEST = 100  # brackets of a JSON file that may be open at once


class Kind(NamedTuple):
    """What a file is."""

    file: Path
    what: str  # with its article, such as "a Label Studio export"
    format: str | None = None  # the data.format that reads it; None if there is none
    advice: str = ""  # what to do if there is none, where it is more than to write it as jsonl
    weak: bool = False  # may stand beside the pages of any data set, such as an image

    def __str__(self) -> str:
        if self.format is not None:
            return f"{self.file} is {self.what}: data.format = {self.format}"
        advice = self.advice or "write its pages as jsonl, one per line (README, Your own forms)"
        return f"{self.file} is {self.what}, which is not read as it is; {advice}"


def recognise(path: Path) -> Kind | None:
    """What a file is, or the first file of a folder that is known; None if none is. It reads the beginnings alone."""
    if path.is_file():
        return _of_file(path)
    weak = None
    for number, file in enumerate(_walk(path, 3)):
        if number == MOST_FILES:
            break
        kind = _of_file(file)
        if kind is not None and not kind.weak:
            return kind
        weak = weak or kind
    return weak


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """The visible files of a folder, and then those of its folders: a few of each, so that no folder hides the next."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not is_hidden(entry))
    except OSError:
        return
    yield from [entry for entry in entries if entry.is_file()][:10]
    if depth:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry, depth - 1)


def _of_file(file: Path) -> Kind | None:
    try:
        with file.open("rb") as opened:
            content = opened.read(BEGINNING)
    except OSError:
        return None
    if kind := _binary(file, content):
        return kind
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = content.decode(encoding, "replace").lstrip()
    if text.startswith("<"):
        return _xml(file, text)
    if text.startswith(("{", "[")):
        found = _json(_beginning(text))
        return Kind(file, *found) if found else None
    return _lines(file, text)


def _binary(file: Path, content: bytes) -> Kind | None:
    if content.startswith(b"%PDF-"):
        advice = (
            "make images of its pages for data.format = ocr, for instance with `pdftoppm -r 200 -png`, or write its "
            "words as jsonl, one page per line (README, Your own forms)"
        )
        return Kind(file, "a PDF", None, advice, weak=True)
    if content.startswith(b"PAR1"):
        return Kind(file, "a Parquet file", "hub")
    if content.startswith((b"PK\3\4", b"\x1f\x8b")):
        return Kind(file, "an archive", None, "unpack it", weak=True)
    if file.suffix.lower() in SUFFIXES:
        try:
            page_images(file)
        except DataError:
            return None
        return Kind(file, "an image", "ocr", weak=True)
    return None


def _xml(file: Path, text: str) -> Kind | None:
    """By the root element, which is the first that is no declaration and no comment."""
    text = re.sub(r"<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*(?:\[.*?\])?\s*>", "", text, flags=re.DOTALL | re.IGNORECASE)
    root = re.match(r"\s*<(?:[\w.-]+:)?([\w.-]+)([^>]*)", text)
    if root is None:
        return None
    name = root[1].lower()
    if name == "html" and re.search(r"ocr-system|ocr_page|ocrx_word", text):
        return Kind(file, "an hOCR file")
    if name == "document" and "finereader" in root[2].lower():
        return Kind(file, "an ABBYY FineReader file")
    known = {"alto": "an ALTO file", "pcgts": "a PAGE-XML file", "annotation": "a Pascal VOC file"}
    if name in known:
        return Kind(file, known[name])
    return Kind(file, f"an XML file with the root element {root[1][:40]}", weak=True)


def _lines(file: Path, text: str) -> Kind | None:
    if file.suffix == ".txt":
        split = re.sub("_(box|image)$", "", file.stem)
        if sum(file.with_name(f"{split}{part}.txt").is_file() for part in ("", "_box", "_image")) > 1:
            return Kind(file, "a text file of run_seq_labeling.py", "unilm")
    first, _, _ = text.partition("\n")
    if re.match(r"[^\t]+\t\[\{\s*\"(transcription|points)\"", first):
        return Kind(file, "a PaddleOCR label file")
    if re.match(r"(-?\d+(\.\d+)?,){8}", first):
        return Kind(file, "a file of the lines of a SROIE receipt", "sroie")
    if file.suffix.lower() in (".csv", ".tsv") and re.search("[,;\t]", first):
        return Kind(file, "a CSV table", weak=True)
    return None


def _beginning(text: str) -> Any:
    """The value of JSON that may break off, as far as it goes; None if it is none."""
    open_: list[str] = []
    end, closing = 0, ""
    for token in re.finditer(r'"(?:[^"\\]|\\.)*+"|["\[\]{},]', text, re.DOTALL):
        mark = token[0]
        if mark == '"':  # of a text that breaks off
            break
        if mark in "[{":
            open_.append("]" if mark == "[" else "}")
        elif mark in "]}":
            if not open_ or open_.pop() != mark:
                return None
        elif mark != ",":
            continue
        if len(open_) > DEEPEST:
            return None
        end, closing = (token.start() if mark == "," else token.end()), "".join(reversed(open_))
        if not open_:
            break
    try:
        return json.loads(text[:end] + closing)
    except (ValueError, RecursionError):
        return None


def _json(value: Any) -> tuple[str, str | None] | None:
    """(what, format) of a JSON value, by its own keys or those of its first item."""
    item = value[0] if isinstance(value, list) and value else value
    if isinstance(item, list):  # PaddleOCR: [[[[x, y], ...], ["text", 0.98]], ...], or a list of those
        lines = item if len(item) == 2 and _is_paddle_text(item[1]) else item[0] if item else None
        return ("a PaddleOCR result", None) if isinstance(lines, list) and _is_paddle_text(lines[-1:][0]) else None
    if not isinstance(item, dict):
        return None
    keys = set(item)
    if {"document", "words", "page_size"} <= keys:
        return ("a list of pages; jsonl has one per line", None) if value is not item else ("a jsonl file", "jsonl")
    for wanted, kind in _BY_KEYS:
        if wanted <= keys:
            return kind
    pages = item.get("pages")
    page = pages[0] if isinstance(pages, list) and pages else None
    if isinstance(page, dict):
        if "blocks" in page and page.keys() & {"page_idx", "dimensions"}:
            return "a docTR result, which DocILE has too", None
        if "pageNumber" in page:
            google = page.keys() & {"dimension", "layout", "tokens", "image"}
            return ("a Google Document AI response" if google else "an Azure Document Intelligence response"), None
    if keys and keys <= set(RULES):
        return "a file of the key values of a SROIE receipt", "sroie"
    inner = next((item[key] for key in ("document", "res") if isinstance(item.get(key), dict)), None)
    return None if inner is None else _json(inner)


def _is_paddle_text(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], float)


_TEXTRACT = ("an Amazon Textract response", None)
_AZURE = ("an Azure Document Intelligence response", None)
_PADDLE = ("a PaddleOCR result", None)
# Keys that a file has, all of them, and what it is.
_BY_KEYS: tuple[tuple[set[str], tuple[str, str | None]], ...] = (
    ({"form"}, ("a FUNSD form", "funsd")),
    ({"valid_line"}, ("a CORD receipt", "cord")),
    ({"ground_truth"}, ("a CORD receipt", "cord")),
    ({"documents"}, ("an XFUND file", "xfund")),
    ({"data", "annotations"}, ("a Label Studio export", None)),
    ({"data", "predictions"}, ("a Label Studio export", None)),
    ({"data", "completions"}, ("a Label Studio export", None)),
    ({"images", "annotations"}, ("a COCO file", None)),
    ({"images", "categories"}, ("a COCO file", None)),
    ({"Blocks"}, _TEXTRACT),
    ({"ExpenseDocuments"}, _TEXTRACT),
    ({"DocumentMetadata"}, _TEXTRACT),
    ({"BlockType"}, _TEXTRACT),
    ({"analyzeResult"}, _AZURE),
    ({"modelId", "apiVersion"}, _AZURE),
    ({"field_extractions"}, ("a DocILE annotation", None)),
    ({"line_item_extractions"}, ("a DocILE annotation", None)),
    ({"fullTextAnnotation"}, ("a Google Vision response", None)),
    ({"textAnnotations"}, ("a Google Vision response", None)),
    ({"responses"}, ("a Google Vision response", None)),
    ({"rec_texts"}, _PADDLE),
    ({"dt_polys"}, _PADDLE),
    ({"transcription", "points"}, _PADDLE),
    ({"shapes", "imagePath"}, ("a labelme file", None)),
)
