"""hOCR: HTML whose title attributes have the boxes, in pixels. Written by tesseract, ocropus and others."""

import codecs
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from layoutner.errors import DataError
from layoutner.files.encodings import NotUnicode, decode
from layoutner.files.text import CONVERT, LARGEST_PAGE, read_bytes
from layoutner.ocr_results.result_files import ResultPage, read_results
from layoutner.pages.page import Page, PageSize, Problem, Word
from layoutner.pages.text_lines import LineBox, cut_line

SUFFIXES = (".hocr.html", ".hocr", ".html", ".htm", ".xhtml")
LINES = {"ocr_line", "ocrx_line", "ocr_header", "ocr_footer", "ocr_caption", "ocr_textfloat"}
WORDS = {"ocrx_word", "ocr_word"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
DEEPEST = 200  # maximum nesting of elements

# An element's tag never contains "<", so that a search for its end stops at the next tag and time stays linear.
_TAG = re.compile(r"<(/?)([a-zA-Z][\w:.-]*)((?:\"[^\"<]*\"|'[^'<]*'|[^<>\"'])*+)>")
_ATTRIBUTE = re.compile(r"""([\w:-]+)\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)""")
_NUMBER = r"-?\d{1,9}(?:\.\d{1,9})?"
_BOX = re.compile(rf"(?:^|;)\s*bbox\s+({_NUMBER})\s+({_NUMBER})\s+({_NUMBER})\s+({_NUMBER})\s*(?:;|$)")
_IMAGE = re.compile(r"(?:^|;)\s*image\s+(?:\"([^\"]*)\"|'([^']*)'|([^;]*))")
_DECLARED = re.compile(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.-]{1,40})|charset\s*=\s*[\"']?\s*([\w.-]{1,40})")
_TEXT_ENCODINGS = re.compile(r"(utf|iso-?8859|latin|windows|cp|mac|koi8|euc|big5|gb|shift|sjis|us-ascii|ascii)", re.I)


def read(path: Path, role: str) -> Iterator[Page | Problem]:
    """Read an hOCR file or a folder of them. Lines are segments, in the order of the file.

    Elements of the class ocrx_word are words. The box of a line without such words is divided among the words of its
    text in proportion to their characters.

    Args:
        path: a file, or a folder of .hocr or .html files.
        role: ignored.

    Raises:
        DataError: the folder holds no such file.
    """
    yield from read_results(path, SUFFIXES, "an hOCR file", _parse)


class _Tag(NamedTuple):
    """A start or end tag, or the text between two tags."""

    text: str = ""
    name: str = ""
    is_end: bool = False
    attributes: str = ""


class _Open(NamedTuple):
    """An element that has not ended."""

    name: str
    kind: str  # "page", "line", "word" or ""
    title: str


class _Reader:
    """Collects the words of the pages while the tags of a file pass by."""

    def __init__(self) -> None:
        self.pages: list[ResultPage] = []
        self._open: list[_Open] = []
        self._line = 0
        self._words = 0  # number of words before the open line
        self._text: list[str] = []  # of the open word, or of the open line

    def start(self, tag: _Tag) -> None:
        kind = title = ""
        if "ocr" in tag.attributes:
            attributes = {
                key.lower(): html.unescape(value.strip("\"'")) for key, value in _ATTRIBUTE.findall(tag.attributes)
            }
            classes, title = set(attributes.get("class", "").split()), attributes.get("title", "")
            kind = "page" if "ocr_page" in classes else "word" if classes & WORDS else "line" if classes & LINES else ""
        if kind == "page":
            self.pages.append(ResultPage([], _size(title), image=_image(title)))
        elif kind == "line":
            self._line, self._words, self._text = self._line + 1, len(self._page.words), []
        elif kind == "word":
            self._text = []
        if tag.name not in VOID and not tag.attributes.rstrip().endswith("/"):
            self._open.append(_Open(tag.name, kind, title))
            if len(self._open) > DEEPEST:
                raise DataError(f"elements are nested more than {DEEPEST} deep")

    def end(self, name: str) -> None:
        if not any(one.name == name for one in self._open):
            return
        while self._open:
            closed = self._open.pop()
            if closed.kind in ("word", "line"):
                self._close(closed)
            if closed.name == name:
                break

    def take(self, text: str) -> None:
        if any(one.kind in ("word", "line") for one in self._open):
            self._text.append(text)

    def finish(self) -> list[ResultPage]:
        while self._open:
            self.end(self._open[-1].name)
        return self.pages

    def _close(self, closed: _Open) -> None:
        text = " ".join("".join(self._text).split())
        self._text = []
        words = self._page.words
        if closed.kind == "word" and text:
            words.append(Word(text, _box(closed.title, text), None, self._line))
        elif closed.kind == "line" and text and len(words) == self._words:
            words += [Word(word, box, None, self._line) for word, box in cut_line(text, _box(closed.title, text))]

    @property
    def _page(self) -> ResultPage:
        if not self.pages:
            raise DataError("a line or word comes before the first element of class ocr_page")
        return self.pages[-1]


def _parse(file: Path, notes: list[str]) -> list[ResultPage]:
    text = _decoded(file, notes)
    reader = _Reader()
    try:
        for tag in _tags(text):
            if not tag.name:
                reader.take(tag.text)
            elif tag.is_end:
                reader.end(tag.name)
            else:
                reader.start(tag)
        pages = reader.finish()
    except DataError as error:
        raise DataError(f"{file}: not an hOCR file: {error}") from None
    if not pages:
        raise DataError(f"{file}: not an hOCR file: it has no element of class ocr_page")
    return pages


def _decoded(file: Path, notes: list[str]) -> str:
    """The text, in the encoding that the file declares; without a declaration as `decode` finds it."""
    content = read_bytes(file, LARGEST_PAGE)
    declared = _DECLARED.search(content[:4096])
    name = "" if declared is None else (declared[1] or declared[2]).decode("ascii")
    try:
        if not name or name.lower().replace("-", "").startswith(("utf8", "utf16")):
            text, note = decode(content)
            notes += [note] if note else []
            return text
        if not _TEXT_ENCODINGS.match(name):
            raise LookupError(f"unknown encoding: {name}")
        return content.decode(codecs.lookup(name).name)
    except NotUnicode as error:
        raise DataError(f"{file}: cannot be read: {error}; {CONVERT}") from None
    except (LookupError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: it declares the encoding {name}: {error}") from None


def _tags(text: str) -> Iterator[_Tag]:
    """Tags and the text between them, with entities resolved. Comments and declarations are left out."""
    place = 0
    while place < len(text):
        start = text.find("<", place)
        if start < 0:
            start = len(text)
        if start > place:
            yield _Tag(html.unescape(text[place:start]))
        if start == len(text):
            return
        if text.startswith(("<!", "<?"), start):
            closing = "-->" if text.startswith("<!--", start) else ">"
            end = text.find(closing, start)
            if end < 0:
                return
            place = end + len(closing)
        elif found := _TAG.match(text, start):
            yield _Tag(name=found[2].lower(), is_end=bool(found[1]), attributes=found[3])
            place = found.end()
        else:
            yield _Tag("<")
            place = start + 1


def _size(title: str) -> PageSize | None:
    """The page's far corner: boxes are measured from the corner of the image."""
    found = _BOX.search(title)
    return None if found is None else (float(found[3]), float(found[4]))


def _box(title: str, text: str) -> LineBox:
    found = _BOX.search(title)
    if found is None:
        raise DataError(f"{text[:40]!r} has no bbox, but the title {title[:80]!r}")
    x0, y0, x1, y1 = (float(side) for side in found.groups())
    return x0, y0, x1, y1


def _image(title: str) -> str | None:
    found = _IMAGE.search(title)
    return None if found is None else (found[1] or found[2] or found[3] or "").strip() or None
