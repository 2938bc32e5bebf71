"""Find duplicate pages: the same image, the same words, or a second scan or OCR of the same page.

Two scans of one form differ in punctuation and word boundaries from OCR, but hardly in their numbers. Two receipts of
one shop differ in date, receipt number and total, but hardly in their text. So pages with enough numbers are compared
by numbers, other pages by text only.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from layoutner.pages.document import Document

GRAM = 3  # word pieces per n-gram
# Near-identical: Jaccard similarity of the n-grams >= SAME_TEXT; or, if both pages have NUMBERS numbers or more,
# Jaccard similarity of the numbers >= SAME_NUMBERS and of the n-grams >= ALIKE_TEXT.
SAME_TEXT = 0.9
SAME_NUMBERS = 0.95
ALIKE_TEXT = 0.5
NUMBERS = 10
FEW_PIECES = 10  # pages with fewer word pieces are never near-identical, only identical
_PIECE = re.compile(r"\d+|[^\W\d_]+")
COMMON = 100  # above this number of pages with one n-gram, compare a page only with the previous page that has it


class Pair(NamedTuple):
    """Indices of two pages, the smaller one first."""

    one: int
    other: int
    identical: bool  # the same image bytes, or the same words in the same boxes


def page_digest(document: Document) -> str:
    """Hash of a page's words and boxes, 16 hexadecimal digits. It does not depend on the page's name."""
    content = json.dumps([document.words, document.boxes]).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def find_pairs(documents: Sequence[Document]) -> list[Pair]:
    """Pairs of identical and near-identical pages, sorted. Pages without words are skipped.

    Each copy of a page is paired with the first copy. Time and memory grow with the number of words and of similar
    pages, not with the square of the number of pages.
    """
    same_words = set(_same_words(documents))
    copies = same_words | set(_same_image(documents))
    # A page with the same words as an earlier page has the same neighbours, so skip it.
    near = set(_near(documents, {other for _, other in same_words})) - copies
    return sorted([Pair(*pair, identical) for found, identical in ((copies, True), (near, False)) for pair in found])


def join(pairs: Sequence[Pair], count: int) -> list[list[int]]:
    """Connected components of `count` pages under the pairs, without those of a single page."""
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
    """Pairs of pages whose image is the same frame of files with the same bytes."""
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
    """Pairs of near-identical pages, without the pages in `without`."""
    grams: dict[int, list[int]] = {}  # page -> its n-grams
    known: dict[int, int] = {}  # hash of an n-gram -> its number, which is the same in every process
    numbers: dict[int, Counter[str]] = {}
    frequency: Counter[int] = Counter()  # n-gram -> number of pages that contain it
    for index, document in enumerate(documents):
        pieces = _PIECE.findall(" ".join(document.words).casefold())
        if index not in without and len(pieces) >= FEW_PIECES:
            # n-grams are represented by numbers. A hash collision gives two of them the same number; it is negligible.
            hashes = dict.fromkeys(hash(tuple(pieces[at : at + GRAM])) for at in range(len(pieces) - GRAM + 1))
            grams[index] = [known.setdefault(each, len(known)) for each in hashes]
            numbers[index] = Counter(piece for piece in pieces if piece.isdecimal())
            frequency.update(grams[index])
    # Prefix filter (Chaudhuri et al. 2006): if all pages sort their n-grams in the same order, rarest first, two pages
    # with a Jaccard similarity of at least t share one of the first (1 - t) n + 1 of n. So common letterheads produce
    # no candidates.
    pages: dict[int, list[int]] = defaultdict(list)  # n-gram -> earlier pages that have it among their rarest
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
