"""JSON lines, one page per line: layoutner's own format, which `layoutner predict` also writes.

Each line is a JSON object in UTF-8, at most 64 MiB long. Blank lines are skipped. Keys of the object:

    "document"    text, required: the page's name. Names may repeat; messages tell pages apart by file and line.
    "page_size"   [width, height] of the page, two numbers, required: in pixels, or in points of a PDF. Boxes with the
                  unit "pixels" use the same unit as this.
    "words"       a list of objects in reading order, required; it may be empty:
        "text"    text, required. Blank words are dropped.
        "box"     [x0, y0, x1, y1], required: left, top, right, bottom in the page's "unit".
        "label"   "O", or B-, I-, E- or S- and a type, such as "B-TOTAL"; on every word of a page, or on none.
        "segment" integer, optional: words of the same line or field of the page have the same number.
    "unit"        what boxes are measured in: "thousandths" of the page's width and height (the default), "pixels",
                  "percent" or "fractions" (0 to 1) of the page's width and height.
    "box"         "xyxy" (the default), or "xywh" if boxes are [left, top, width, height].
    "group"       text, optional: the document that the page belongs to. Splits keep the pages of a document together.
    "image"       optional: path of the page image, or of a PDF with it, relative to the file's folder and inside it.
    "frame"       index of the page in the image file, an integer from 0; required if a TIFF or PDF has several pages.

A null value counts as a missing key. Other keys are ignored, such as "probability" of a word and "entities" of a page,
which `layoutner predict` adds.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as short
from typing import Any, BinaryIO, get_args

from layoutner.errors import DataError, NoSplitError
from layoutner.files.encodings import NotUnicode, decode, is_utf_16
from layoutner.files.image import PageImage, find_page
from layoutner.files.text import CONVERT, inside, visible_files
from layoutner.pages.page import Page, Problem, Word, encoding_notes, hidden_notes
from layoutner.readers.live import LiveLines, standard_input
from layoutner.settings.data import BoxFormat, BoxUnit

ROLES = ("train", "eval", "test")
STDIN = Path("/dev/stdin")
LONGEST_LINE = 64 * 2**20  # maximum bytes of a line, line end included


def read(path: Path, role: str) -> Iterator[Page | Problem]:
    """Read a file or folder of JSON lines.

    Args:
        path: a file; or /dev/stdin, with image paths relative to the working directory; or a folder, of which
            {role}.jsonl is read, or all *.jsonl if it has none of train.jsonl, eval.jsonl and test.jsonl.
        role: "train", "eval" or "test".

    Raises:
        DataError: nothing to read there.
    """
    if path == STDIN:
        if (stdin := standard_input()) is None:
            raise DataError("standard input is closed")
        yield from _lines(stdin, "stdin", Path())
        return
    hidden: list[Path] = []
    files = _files(path, role, hidden) if path.is_dir() else [path]
    yield from hidden_notes(hidden)
    for file in files:
        try:
            with file.open("rb") as lines:
                yield from _lines(lines, file.name, file.parent)
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error}") from None


def _files(folder: Path, role: str, hidden: list[Path]) -> list[Path]:
    files = visible_files(folder, ".jsonl", hidden)
    if not files:
        raise DataError(f"{folder}: holds no .jsonl file")
    there = [file for file in files if file.stem in ROLES]
    if there and folder / f"{role}.jsonl" not in there:
        raise NoSplitError(
            f"{folder}: holds {', '.join(file.name for file in there)}, none of them for data.{role}; "
            "give the full path of one of them"
            + (", or give a fraction of the training documents such as 0.1" if role == "eval" else "")
        )
    return [folder / f"{role}.jsonl"] if there else files


def _lines(lines: BinaryIO | LiveLines, name: str, folder: Path) -> Iterator[Page | Problem]:
    number = 0
    while line := lines.readline(LONGEST_LINE + 1):
        number += 1
        source = f"{name} line {number}"
        if number == 1 and is_utf_16(line):
            raise DataError(f"{name}: is UTF-16, but JSON lines must be UTF-8; {CONVERT}")
        if len(line) > LONGEST_LINE:
            while line and not line.endswith(b"\n"):
                line = lines.readline(2**20)
            what = f"longer than {LONGEST_LINE / 2**20:g} MiB; expected one document per line"
            yield Problem(source, "unreadable", what)
        elif line.strip():
            try:
                yield _page(line, source, folder)
            except DataError as error:
                yield Problem(source, "unreadable", str(error))


def _page(line: bytes, source: str, folder: Path) -> Page:
    try:
        text, note = decode(line)
        page = json.loads(text)
    except NotUnicode as error:
        raise DataError(f"{error} of the line; {CONVERT}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}; expected one document per line") from None
    if not isinstance(page, dict):
        raise DataError(f"{short(page)} is not a document; expected an object")
    name, size, words = (page.get(key) for key in ("document", "page_size", "words"))
    if not (isinstance(name, str) and name.strip()):
        raise DataError(f'"document" is {short(name)}; expected the name of the page')
    if not (isinstance(size, list) and len(size) == 2):
        raise DataError(f'"page_size" is {short(size)}; expected [width, height], two numbers')
    if not isinstance(words, list):
        raise DataError(f'"words" is {short(words)}; expected a list of words')
    group = page.get("group")
    if not (group is None or (isinstance(group, str) and group.strip())):
        raise DataError(f'"group" is {short(group)}; expected the name of the document that the page is of')
    made = [_word(word, index) for index, word in enumerate(words)]
    image, seen = _image(page.get("image"), page.get("frame"), folder)
    return Page(
        source,
        name,
        made,
        (size[0], size[1]),
        image,
        notes=encoding_notes(source, [note] if note else []),
        unit=_choice(page, "unit", get_args(BoxUnit)),
        box_format=_choice(page, "box", get_args(BoxFormat)),
        group=group,
        image_size=seen,
    )


def _choice(page: dict[str, Any], key: str, choices: tuple[str, ...]) -> Any:
    """The value of a key; the first choice if the key is missing."""
    value = page.get(key)
    if value is not None and value not in choices:
        known = " or ".join(f'"{choice}"' for choice in choices)
        raise DataError(f'"{key}" is {short(value)}; expected {known}')
    return value or choices[0]


def _word(word: Any, index: int) -> Word:
    if not isinstance(word, dict):
        raise DataError(f"word {index}: {short(word)} is not a word; expected an object")
    text, box, label, segment = (word.get(key) for key in ("text", "box", "label", "segment"))
    if not isinstance(text, str):
        raise DataError(f'word {index}: "text" is {short(text)}; expected text')
    if not (isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)):
        raise DataError(f'word {index}: "box" is {short(box)}; expected four numbers, [x0, y0, x1, y1]')
    if not (label is None or isinstance(label, str)):
        raise DataError(f'word {index}: "label" is {short(label)}; expected a label such as "B-TOTAL"')
    if not (segment is None or (isinstance(segment, int) and not isinstance(segment, bool))):
        raise DataError(f'word {index}: "segment" is {short(segment)}; expected a whole number')
    return Word(text, (box[0], box[1], box[2], box[3]), label, segment)


def _image(name: Any, frame: Any, folder: Path) -> tuple[PageImage, tuple[int, int]] | tuple[None, None]:
    if not (frame is None or (isinstance(frame, int) and not isinstance(frame, bool) and frame >= 0)):
        raise DataError(f'"frame" is {short(frame)}; expected a whole number from 0')
    if name is None:
        if frame is not None:
            raise DataError(f'"frame" is {frame}, but the line has no "image"')
        return None, None
    if not isinstance(name, str):
        raise DataError(f'"image" is {short(name)}; expected a path relative to {folder.resolve()}')
    # Find an unreadable image now, not in the middle of a run.
    return find_page(inside(folder, name), frame)
