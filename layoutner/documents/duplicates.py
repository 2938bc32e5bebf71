"""Pages that are there twice: the same image, the same words, or the same page read a second time.

A form filled in once and scanned twice differs in the OCR engine's commas and cuts between words, hardly in its
numbers; two receipts of one shop differ in date, receipt number and total, and in little else. So numbers decide where
a page has enough of them, and text alone where it has not.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from layoutner.pages.document import Document

GRAM = 3  # word pieces a gram
SAME_TEXT = 0.9  # Jaccard of the grams from which on text alone says near-identical
SAME_NUMBERS = 0.95  # Jaccard of the numbers from which on they say it, where ...
ALIKE_TEXT = 0.5  # ... the grams reach this, and ...
NUMBERS = 10  # ... both pages have this many numbers
FEW_PIECES = 10  # a page of fewer word pieces is the same only where all its words and boxes are
_PIECE = re.compile(r"\d+|[^\W\d_]+")
COMMON = 100  # a gram of more pages than this leads from each of them to the one before it alone


class Pair(NamedTuple):
    """Two pages, by their index, the smaller first."""

    one: int
    other: int
    identical: bool  # the same image bytes, or the same words in the same boxes


def page_digest(document: Document) -> str:
    """16 hexadecimal digits that tell a page from others by its words and boxes, whatever it is called."""
    content = json.dumps([document.words, document.boxes]).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def find_pairs(documents: Sequence[Document]) -> list[Pair]:
    """Pairs of identical and near-identical pages, in order; pages without words are left out.

    Of many copies of one page, each is paired with the first. Time and memory grow with the number of words and of
    pages that look alike, not with the square of the number of pages.
    """
    same_words = set(_same_words(documents))
    copies = same_words | set(_same_image(documents))
    # A page with the words of an earlier one is as near to others as that one is.
    near = set(_near(documents, {other for _, other in same_words})) - copies
    return sorted([Pair(*pair, identical) for found, identical in ((copies, True), (near, False)) for pair in found])


def join(pairs: Sequence[Pair], count: int) -> list[list[int]]:
    """Groups of `count` pages that pairs hold together, if only through other pages; a page alone is not listed."""
    root = list(range(count))

    def top(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    for one, other, _ in pairs:
        first, second = sorted((top(one), top(other)))
        root[second] = first
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(count):
        groups[top(index)].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _same_words(documents: Sequence[Document]) -> Iterator[tuple[int, int]]:
    first: dict[tuple[object, object], int] = {}
    for index, document in enumerate(documents):
        if document.words and (earlier := first.setdefault((document.words, document.boxes), index)) != index:
            yield earlier, index


def _same_image(documents: Sequence[Document]) -> Iterator[tuple[int, int]]:
    """Pages of the same frame of the same bytes."""
    by_size: dict[tuple[int, int | None], list[int]] = defaultdict(list)
    for index, document in enumerate(documents):
        if document.words and document.image is not None and document.image.path.is_file():
            by_size[document.image.path.stat().st_size, document.image.frame].append(index)
    for same_size in by_size.values():
        if len(same_size) == 1:
            continue  # most files need not be read
        first: dict[bytes, int] = {}
        for index in same_size:
            image = documents[index].image
            assert image is not None, "listed above because it has one"
            with image.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            if (earlier := first.setdefault(digest, index)) != index:
                yield earlier, index


def _near(documents: Sequence[Document], without: set[int]) -> Iterator[tuple[int, int]]:
    """Pairs of pages whose text and numbers are near."""
    grams: dict[int, list[int]] = {}  # page -> its grams
    known: dict[int, int] = {}  # hash of a gram -> its number, the same in every process
    numbers: dict[int, Counter[str]] = {}
    frequency: Counter[int] = Counter()  # gram -> pages that hold it
    for index, document in enumerate(documents):
        pieces = _PIECE.findall(" ".join(document.words).casefold())
        if index not in without and len(pieces) >= FEW_PIECES:
            # A gram is known by its number; where two share a hash they share that too, which is rare beyond notice.
            hashes = dict.fromkeys(hash(tuple(pieces[at : at + GRAM])) for at in range(len(pieces) - GRAM + 1))
            grams[index] = [known.setdefault(each, len(known)) for each in hashes]
            numbers[index] = Counter(piece for piece in pieces if piece.isdecimal())
            frequency.update(grams[index])
    # Prefix filter (Chaudhuri et al. 2006): pages whose Jaccard is at least t share one of the rarest (1 - t) n + 1
    # of their n grams, all pages sorting their grams alike. So letterheads lead nowhere.
    pages: dict[int, list[int]] = defaultdict(list)  # gram -> pages before this one that have it among their rarest
    as_set = {index: frozenset(own) for index, own in grams.items()}
    for index, own in grams.items():
        own.sort(key=lambda gram: (frequency[gram], gram))
        candidates: set[int] = set()
        for gram in own[: int((1 - ALIKE_TEXT) * len(own)) + 1]:
            if frequency[gram] > 1:
                earlier = pages[gram]
                candidates.update(earlier[-1:] if len(earlier) > COMMON else earlier)
                earlier.append(index)
        for other in candidates:
            both = len(as_set[index] & as_set[other])
            text = both / (len(own) + len(grams[other]) - both)
            if text >= ALIKE_TEXT and _is_near(text, numbers[index], numbers[other]):
                yield other, index


def _is_near(text: float, one: Counter[str], other: Counter[str]) -> bool:
    if min(one.total(), other.total()) < NUMBERS:
        return text >= SAME_TEXT
    return (one & other).total() / (one | other).total() >= SAME_NUMBERS
