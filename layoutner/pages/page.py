"""A page as read from a file, before validation, and its conversion to a Document.

Readers only parse. They yield Pages, a fatal Problem for each page that cannot be read, and non-fatal Problems as notes
on the files. Words, boxes and tags are validated here, for all formats, and repaired if the settings say so.
"""

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from typing import Any, Literal, NamedTuple

from layoutner.files.image import PageImage
from layoutner.pages.box_units import to_corners, to_thousandths
from layoutner.pages.document import Box, Document
from layoutner.pages.labels import Span, to_spans, to_tags
from layoutner.settings.data import BoxFormat, BoxUnit

InvalidBoxes = Literal["none", "clamp", "drop"]

PageSize = tuple[float, float]  # width, height, in pixels or another unit of length, such as the points of a PDF

LONGEST_MESSAGE = 1000  # characters
SMALLEST_SIDE, LARGEST_SIDE = 1e-3, 1e9  # limits of page width and height, in any unit from pixels to metres
PROPORTION = 0.02  # tolerance between the aspect ratios of a page and its image, whose size is rounded to pixels


class Problem(NamedTuple):
    """A problem with a page or a word."""

    source: str  # file, or file and line
    kind: str  # short fixed text, so that problems can be counted by kind
    what: str  # the value, and what to do if that is not obvious
    word: int | None = None  # index among the page's words in the file
    text: str = ""  # text of that word
    fatal: bool = True  # False: only a note, which does not stop a run

    def __str__(self) -> str:
        where = "" if self.word is None else f"word {self.word} {self.text!r}: "
        line = f"{self.source}: {where}{self.what}"
        # Words and labels of a damaged file may be megabytes long, or contain terminal control characters.
        line = "".join(letter if letter.isprintable() else "?" for letter in line[:LONGEST_MESSAGE])
        return line if len(line) < LONGEST_MESSAGE else f"{line} ..."


class Word(NamedTuple):
    """A word as read from a file."""

    text: str
    box: tuple[float, float, float, float]  # in the unit and the format that the Page names
    tag: str | None = None  # "O", or prefix-type such as "B-TOTAL"; None = not labelled
    segment: int | None = None  # words of one line or field of the page share a number


@dataclass(frozen=True)
class Page:
    """A page as read from a file."""

    source: str  # file, or file and line; used in messages
    name: str
    words: list[Word]
    page_size: PageSize  # in the unit of boxes in "pixels"
    image: PageImage | None = None
    unit: BoxUnit = "pixels"  # of the boxes
    notes: tuple[Problem, ...] = ()  # non-fatal problems that the reader found
    breaks: tuple[int, ...] | None = None  # words before each empty line of the file; None if its lines are not words
    group: str | None = None  # pages of one document share it
    box_format: BoxFormat = "xyxy"  # two corners, or one corner and the size
    image_size: tuple[int, int] | None = None  # width, height of the upright image, in pixels
    stated_size: PageSize | None = None  # page size in the file, if page_size was taken from the image instead


@dataclass
class ReadStats:
    """Counts of repairs and skipped pages while reading."""

    repaired: Counter[str] = field(default_factory=Counter)  # description of the repair -> count
    ignored: Counter[str] = field(default_factory=Counter)  # type of data.ignore_types -> number of words with it
    skipped: int = 0  # pages skipped because they could not be used
    first_skipped: Problem | None = None
    notes: list[str] = field(default_factory=list)  # notes that do not belong to a page

    def skip(self, problem: Problem) -> None:
        """Count a skipped page."""
        self.skipped += 1
        self.first_skipped = self.first_skipped or problem

    def lines(self, role: str) -> list[str]:
        """The counts and notes as log lines."""
        found = [f"{role}: {count} {what}" for what, count in sorted(self.repaired.items())]
        found += [f"{role}: {count} word(s) of {kind} read as O" for kind, count in sorted(self.ignored.items())]
        found += [f"{role}: note: {note}" for note in self.notes]
        if self.skipped:
            first = f"the first: {self.first_skipped}"
            found.append(f"{role}: {self.skipped} page(s) left out (data.bad_pages = skip); {first}")
        return found


def to_document(page: Page, invalid_boxes: InvalidBoxes, stats: ReadStats) -> tuple[Document | None, list[Problem]]:
    """Validate a page and convert it to a Document.

    Blank words are dropped. Boxes that leave the page or are inverted are problems with invalid_boxes = "none"; "clamp"
    cuts them to the page and swaps inverted sides; "drop" removes their words.

    Returns:
        The document (None if a problem is fatal), and all problems that were not repaired.
    """
    problems: list[Problem] = []
    kept: list[int] = []  # index in page.words
    boxes: dict[int, Box] = {}
    width, height = page.page_size
    if problem := page_size_problem(page.page_size):
        return None, [Problem(page.source, "page size", problem)]
    if problem := _text_problem(page.name):
        return None, [Problem(page.source, "not text", f"the page's name {page.name!r}: {problem}")]
    for index, word in enumerate(page.words):
        if problem := _text_problem(word.text):
            problems.append(Problem(page.source, "not text", problem, index, word.text))
            continue
        if not word.text.strip():
            stats.repaired["blank word(s) dropped"] += 1
            continue
        if not is_box(word.box):
            what = f"box {list(word.box)} is not four numbers"
            problems.append(Problem(page.source, "not a box", what, index, word.text))
            continue
        box = _scaled(page, word.box)
        if found := box_problem(box):
            kind, what = found
            pixels = f"; {list(word.box)} pixels on a page of {width} x {height}" if page.unit == "pixels" else ""
            if invalid_boxes == "none":
                advice = "data.invalid_boxes = clamp or drop repairs it"
                problems.append(Problem(page.source, kind, f"{what}{pixels}; {advice}", index, word.text))
            elif invalid_boxes == "drop":
                stats.repaired[f"word(s) dropped, {kind} (data.invalid_boxes = drop)"] += 1
                continue
            else:
                stats.repaired[f"box(es) clamped, {kind} (data.invalid_boxes = clamp)"] += 1
                box = _clamped(box)
        kept.append(index)
        boxes[index] = box
    tags, tag_problems = _tags(page, kept)
    problems += tag_problems
    problems += page.notes
    problems += _size_problems(page)
    if any(problem.fatal for problem in problems):
        return None, problems
    words = [page.words[index] for index in kept]
    segments = tuple(word.segment for word in words if word.segment is not None)
    document = Document(
        page.name,
        tuple(word.text for word in words),
        tuple(boxes[index] for index in kept),
        tags,
        page.page_size,
        page.image,
        segments if len(segments) == len(words) else None,
        None if page.breaks is None else tuple(bisect_left(kept, words) for words in page.breaks),
        page.group,
    )
    return document, problems


def encoding_notes(source: str, notes: list[str]) -> tuple[Problem, ...]:
    """The notes of `read_text` on a file, as non-fatal problems."""
    return tuple(Problem(source, "not UTF-8", note, fatal=False) for note in notes)


def hidden_notes(hidden: list[Path]) -> Iterator[Problem]:
    """A note on the hidden files that `visible_files` left out; nothing if there are none."""
    if hidden:
        what = f"{len(hidden)} hidden file(s) skipped, such as {hidden[0].name}"
        yield Problem(str(hidden[0].parent), "hidden files", what, fatal=False)


def page_size_problem(size: tuple[Any, Any]) -> str | None:
    """Error message for an invalid page width and height; None if they are valid."""
    if all(_is_number(side) and SMALLEST_SIDE <= side < LARGEST_SIDE for side in size):
        return None
    width, height = map(short, size)
    return f"a page of {width} x {height}; expected width and height, two numbers above 0 (pixels, or points of a PDF)"


def written_size(text: str) -> PageSize:
    """Parse "WIDTH HEIGHT" of a text file; integers remain integers.

    Raises:
        ValueError: not two numbers.
    """
    width, height = (float(side) if re.search("[.a-zA-Z]", side) else int(side) for side in text.split())
    return width, height


def is_box(box: tuple[Any, Any, Any, Any]) -> bool:
    """Whether the four sides of a box are numbers within `LARGEST_SIDE`."""
    return all(_is_number(side) and abs(side) < LARGEST_SIDE for side in box)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _size_problems(page: Page) -> list[Problem]:
    """A note if page and image have different aspect ratios, for example because the image is rotated."""
    stated, seen = page.stated_size or page.page_size, page.image_size
    if seen is None or page.image is None:
        return []
    try:
        ratio = (stated[0] * seen[1]) / (stated[1] * seen[0])
    except (TypeError, ZeroDivisionError, OverflowError):
        ratio = math.inf  # the stated size is not valid
    if abs(ratio - 1) <= PROPORTION:
        return []
    what = f"a page of {stated[0]} x {stated[1]}, and its image {page.image.path.name} is {seen[0]} x {seen[1]}"
    return [Problem(page.source, "page size is not the image's", what, fatal=False)]


def _text_problem(text: Any) -> str | None:
    if not isinstance(text, str):
        return f"a word must be text, not {type(text).__name__}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half a character (a lone surrogate) is not valid text"
    return None


def _scaled(page: Page, box: tuple[float, float, float, float]) -> Box:
    x0, y0, x1, y1 = to_thousandths(to_corners(box, page.box_format), page.unit, page.page_size)
    return _down(x0), _down(y0), _down(x1), _down(y1)


def _down(side: float) -> int:
    """Round down as in the LayoutLM preprocessing, with a tolerance: 595.32 of 595.32 gives 1000, not 999.

    The tolerance does not affect whole pixels: their quotients are at least 1 / width below the next integer.
    """
    return int(side + 1e-9)


def box_problem(box: Box) -> tuple[str, str] | None:
    """(kind, description) of a problem with a scaled box; None if the box is valid."""
    x0, y0, x1, y1 = box
    if min(box) < 0 or max(box) > 1000:
        return "box off the page", f"box {list(box)} leaves the page (0..1000)"
    if x1 < x0 or y1 < y0:
        return "inverted box", f"box {list(box)} is inverted (x1 < x0 or y1 < y0)"
    return None


def _clamped(box: Box) -> Box:
    x0, y0, x1, y1 = (min(1000, max(0, side)) for side in box)
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _tags(page: Page, kept: list[int]) -> tuple[tuple[str, ...] | None, list[Problem]]:
    """Validated tags of the kept words. An entity remains one entity if some of its words were dropped."""
    given = [word.tag for word in page.words]
    if any(given[index] is not None for index in kept):
        # Dropped words, such as blank ones, need no label.
        dropped = set(range(len(given))) - set(kept)
        given = ["O" if tag is None and index in dropped else tag for index, tag in enumerate(given)]
    tags = [tag for tag in given if tag is not None]
    if not kept:
        return (), []  # a page without words counts as labelled
    if not tags:
        return None, []
    problems = []
    if len(tags) < len(given):
        what = "some words have a label and some have none"
        return None, [Problem(page.source, "labels incomplete", what)]
    before = "O"
    bioes = any(tag[:2] in ("E-", "S-") for tag in tags)
    for index, tag in enumerate(tags):
        if tag != "O" and (tag[:2] not in ("B-", "I-", "E-", "S-") or not tag[2:] or _text_problem(tag)):
            what = f"label {tag!r} is neither O nor B-, I-, E- or S- followed by a type"
            problems.append(Problem(page.source, "malformed label", what, index, page.words[index].text))
            tag = "O"  # for the one that follows
        elif not _may_follow(before, tag, bioes):
            what = f"label {tag} after {before}: read as the start of an entity"
            word = page.words[index].text
            problems.append(Problem(page.source, "illegal tag sequence", what, index, word, fatal=False))
        before = tag
    if len(kept) == len(given):
        return tuple(tags), problems
    place = {index: position for position, index in enumerate(kept)}
    spans = []
    for kind, start, end in to_spans(tags):
        left = [place[index] for index in range(start, end) if index in place]
        if left:
            spans.append(Span(kind, left[0], left[-1] + 1))
    return tuple(to_tags(spans, len(kept), "BIOES" if bioes else "BIO")), problems


def _may_follow(before: str, tag: str, bioes: bool) -> bool:
    """Whether a tag may follow another in a valid sequence of the scheme."""
    open_before = before[:2] in ("B-", "I-") if bioes else before != "O"
    if tag[:2] in ("I-", "E-"):
        return open_before and before[2:] == tag[2:]
    return not (bioes and open_before)
