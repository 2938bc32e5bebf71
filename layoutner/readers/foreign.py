"""Recognise files of other formats by their beginning, for error messages."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from layoutner.errors import DataError
from layoutner.files.image import SUFFIXES, page_images
from layoutner.files.text import is_hidden
from layoutner.pages.key_values import RULES

BEGINNING = 2**18  # number of bytes read from each file
MOST_FILES = 50  # maximum number of files checked per folder
DEEPEST = 100  # maximum nesting depth of JSON
IMPORT = "`layoutner data import --from {}` makes jsonl of it"  # advice for files of annotation tools


class Kind(NamedTuple):
    """A recognised kind of file."""

    file: Path
    what: str  # with its article, such as "a Label Studio export"
    format: str | None = None  # the data.format that reads it; None if there is none
    advice: str = ""  # what to do if no format reads it; default: convert it to jsonl
    weak: bool = False  # files of this kind, such as images, also occur in datasets of other formats

    def __str__(self) -> str:
        if self.format is not None:
            return f"{self.file} is {self.what}: data.format = {self.format}"
        advice = self.advice or "write its pages as jsonl, one per line (README, Your own forms)"
        return f"{self.file} is {self.what}, which layoutner does not read; {advice}"


def recognise(path: Path) -> Kind | None:
    """The kind of a file, or of the first recognised file in a folder; else None. Reads only the beginning of files."""
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
    """Visible files of a folder and its subfolders, at most ten per folder, so that all folders are sampled."""
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
        if found is None:
            return None
        return Kind(file, *found, IMPORT.format("label-studio") if found == _LABEL_STUDIO else "")
    return _lines(file, text)


def _binary(file: Path, content: bytes) -> Kind | None:
    if content.startswith(b"%PDF-"):
        return Kind(file, "a PDF", "pdf", weak=True)
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
    """Recognise XML by its root element, the first element after declarations and comments."""
    text = re.sub(r"<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*(?:\[.*?\])?\s*>", "", text, flags=re.DOTALL | re.IGNORECASE)
    root = re.match(r"\s*<(?:[\w.-]+:)?([\w.-]+)([^>]*)", text)
    if root is None:
        return None
    name = root[1].lower()
    if name == "html" and re.search(r"ocr-system|ocr_page|ocrx_word", text):
        return Kind(file, "an hOCR file", "hocr")
    if name == "document" and "finereader" in root[2].lower():
        return Kind(file, "an ABBYY FineReader file")
    known = {
        "alto": ("an ALTO file", "alto"),
        "pcgts": ("a PAGE-XML file", "page-xml"),
        "annotation": ("a Pascal VOC file", None),
    }
    if name in known:
        return Kind(file, *known[name])
    return Kind(file, f"an XML file with the root element {root[1][:40]}", weak=True)


def _lines(file: Path, text: str) -> Kind | None:
    if file.suffix == ".txt":
        split = re.sub("_(box|image)$", "", file.stem)
        if sum(file.with_name(f"{split}{part}.txt").is_file() for part in ("", "_box", "_image")) > 1:
            return Kind(file, "a text file of run_seq_labeling.py", "unilm")
    first, _, _ = text.partition("\n")
    if re.match(r"[^\t]+\t\[\{\s*\"(transcription|points)\"", first):
        return Kind(file, "a PaddleOCR label file", None, IMPORT.format("ppocrlabel"))
    if re.match(r"(-?\d+(\.\d+)?,){8}", first):
        return Kind(file, "a file of the lines of a SROIE receipt", "sroie")
    if file.suffix.lower() in (".csv", ".tsv") and re.search("[,;\t]", first):
        return Kind(file, "a CSV table", weak=True)
    return None


def _beginning(text: str) -> Any:
    """Parse JSON that may be truncated, up to the last complete value; None if it is not JSON."""
    open_: list[str] = []
    end, closing = 0, ""
    for token in re.finditer(r'"(?:[^"\\]|\\.)*+"|["\[\]{},]', text, re.DOTALL):
        mark = token[0]
        if mark == '"':  # the start of a truncated string
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
    """(what, format) of a JSON value, recognised by its keys or by those of its first item."""
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
    entities = item.get("entities")  # of Google Document AI they may be long, and come before the pages
    entity = entities[0] if isinstance(entities, list) and entities else None
    if isinstance(entity, dict) and entity.keys() & {"textAnchor", "pageAnchor"}:
        return _GOOGLE
    pages = item.get("pages")
    page = pages[0] if isinstance(pages, list) and pages else None
    if isinstance(page, dict):
        if "blocks" in page and page.keys() & {"page_idx", "dimensions"}:
            return "a docTR result, which DocILE has too", "doctr"
        if page.keys() & {"pageNumber", "page_number"}:
            google = page.keys() & {"dimension", "layout", "tokens", "image"}
            return _GOOGLE if google else _AZURE
    if keys and keys <= set(RULES):
        return "a file of the key values of a SROIE receipt", "sroie"
    inner = next((item[key] for key in ("document", "res") if isinstance(item.get(key), dict)), None)
    return None if inner is None else _json(inner)


def _is_paddle_text(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], float)


_TEXTRACT = ("an Amazon Textract response", "textract")
_AZURE = ("an Azure Document Intelligence response", "azure")
_GOOGLE = ("a Google Document AI response", "google")
_LABEL_STUDIO = ("a Label Studio export", None)
_PADDLE = ("a PaddleOCR result", None)
# (keys that a file of this kind always has, (what, format)).
_BY_KEYS: tuple[tuple[set[str], tuple[str, str | None]], ...] = (
    ({"form"}, ("a FUNSD form", "funsd")),
    ({"valid_line"}, ("a CORD receipt", "cord")),
    ({"ground_truth"}, ("a CORD receipt", "cord")),
    ({"documents"}, ("an XFUND file", "xfund")),
    ({"data", "annotations"}, _LABEL_STUDIO),
    ({"data", "predictions"}, _LABEL_STUDIO),
    ({"data", "completions"}, _LABEL_STUDIO),
    ({"images", "annotations"}, ("a COCO file", None)),
    ({"images", "categories"}, ("a COCO file", None)),
    ({"Blocks"}, _TEXTRACT),
    ({"ExpenseDocuments"}, _TEXTRACT),
    ({"DocumentMetadata"}, _TEXTRACT),
    ({"BlockType"}, _TEXTRACT),
    ({"analyzeResult"}, _AZURE),
    ({"modelId", "apiVersion"}, _AZURE),
    ({"readResults"}, _AZURE),
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
