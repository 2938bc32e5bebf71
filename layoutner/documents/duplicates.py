"""Find duplicate pages: the same image, the same words, or a second scan or OCR of the same page.

Two scans of one form differ in punctuation and word boundaries from OCR, but hardly in their numbers. Two receipts of
one shop differ in date, receipt number and total, but hardly in their text. So pages with enough numbers are compared
by numbers, other pages by text only.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from layoutner.documents.columns import Documents, page_digest
from layoutner.files.arrays import Array
from layoutner.files.image import PageImage
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
HASHED_AT_ONCE = 20_000_000  # n-grams counted at a time, which take 24 bytes each
COMMON = 100  # above this number of pages with one n-gram, compare a page only with the previous page that has it


class Pair(NamedTuple):
    """Indices of two pages, the smaller one first."""

    one: int
    other: int
    identical: bool  # the same image bytes, or the same words in the same boxes


class Sketch(NamedTuple):
    """What is compared of a page; about 2 KB for a page of 200 words."""

    digest: int | None  # see `page_digest`; None for a page without words, which is skipped
    image: PageImage | None
    grams: Array  # uint64: hashes of its n-grams, each once, sorted; none for a page that is never near-identical
    numbers: Array  # uint64: hashes of its numbers, each as often as it occurs


def sketch(document: Document) -> Sketch:
    """The sketch of a page. It is the same in every process."""
    grams = numbers = np.zeros(0, np.uint64)
    pieces = _PIECE.findall(" ".join(document.words).casefold())
    if len(pieces) >= FEW_PIECES:
        # A hash collision makes two n-grams one; it is negligible.
        each = {" ".join(pieces[at : at + GRAM]) for at in range(len(pieces) - GRAM + 1)}
        grams = np.array(sorted(map(_hash, each)), np.uint64)
        numbers = np.array([_hash(piece) for piece in pieces if piece.isdecimal()], np.uint64)
    return Sketch(page_digest(document) if document.words else None, document.image, grams, numbers)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def sketches(documents: Sequence[Document]) -> Sequence[Sketch]:
    """The sketch of each page; those of a store are read from it when they are asked for."""
    return documents.sketches() if isinstance(documents, Documents) else [sketch(document) for document in documents]


def find_pairs(documents: Sequence[Document]) -> list[Pair]:
    """Pairs of identical and near-identical pages; see `compare`."""
    return compare(sketches(documents))


def compare(pages: Sequence[Sketch]) -> list[Pair]:
    """Pairs of identical and near-identical pages, sorted. Pages without words are skipped.

    Each copy of a page is paired with the first copy. Time and memory grow with the number of words and of similar
    pages, not with the square of the number of pages.
    """
    same_words = set(_same_words(pages))
    copies = same_words | set(_same_image(pages))
    # A page with the same words as an earlier page has the same neighbours, so skip it.
    near = set(_near(pages, {other for _, other in same_words})) - copies
    return sorted([Pair(*pair, identical) for found, identical in ((copies, True), (near, False)) for pair in found])


def join(pairs: Sequence[Pair], count: int) -> list[list[int]]:
    """Connected components of `count` pages under the pairs, without those of a single page."""
    groups: dict[int, list[int]] = {}
    tops = roots(pairs, count)
    for index in np.flatnonzero(np.bincount(tops, minlength=count)[tops] > 1).tolist():
        groups.setdefault(int(tops[index]), []).append(index)
    return list(groups.values())


def roots(pairs: Sequence[Pair], count: int) -> Array:
    """For each of `count` pages, the first page of its connected component under the pairs."""
    root = np.arange(count)

    def top(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = int(root[index])
        return index

    for one, other, _ in pairs:
        first, second = sorted((top(one), top(other)))
        root[second] = first
    for index in {index for pair in pairs for index in pair[:2]}:
        root[index] = top(index)
    return root


def _same_words(pages: Sequence[Sketch]) -> Iterator[tuple[int, int]]:
    first: dict[int, int] = {}
    for index, page in enumerate(pages):
        if page.digest is not None and (earlier := first.setdefault(page.digest, index)) != index:
            yield earlier, index


def _same_image(pages: Sequence[Sketch]) -> Iterator[tuple[int, int]]:
    """Pairs of pages whose image is the same frame of files with the same bytes."""
    by_size: dict[tuple[int, int | None], list[int]] = defaultdict(list)
    for index, page in enumerate(pages):
        if page.digest is not None and page.image is not None and page.image.path.is_file():
            by_size[page.image.path.stat().st_size, page.image.frame].append(index)
    for same_size in by_size.values():
        if len(same_size) == 1:
            continue  # most files need not be read
        first: dict[bytes, int] = {}
        for index in same_size:
            image = pages[index].image
            assert image is not None, "listed above because it has one"
            with image.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            if (earlier := first.setdefault(digest, index)) != index:
                yield earlier, index


def _near(pages: Sequence[Sketch], without: set[int]) -> Iterator[tuple[int, int]]:
    """Pairs of near-identical pages, without the pages in `without`."""
    compared = [index for index, page in enumerate(pages) if index not in without and len(page.grams)]
    repeated, frequencies = _repeated([pages[index].grams for index in compared])
    # Prefix filter (Chaudhuri et al. 2006): if all pages sort their n-grams in the same order, rarest first, two pages
    # with a Jaccard similarity of at least t share one of the first (1 - t) n + 1 of n. So common letterheads produce
    # no candidates.
    earlier_pages: dict[int, list[int]] = defaultdict(list)  # n-gram -> earlier pages that have it among their rarest
    for index in compared:
        own = pages[index].grams
        places = np.minimum(np.searchsorted(repeated, own), max(0, len(repeated) - 1))
        shared = repeated[places] == own if len(repeated) else np.zeros(len(own), bool)
        rarest = int((1 - ALIKE_TEXT) * len(own)) + 1 - np.count_nonzero(~shared)  # those of this page alone come first
        if rarest <= 0:
            continue
        order = np.lexsort((own[shared], frequencies[places[shared]]))
        candidates: set[int] = set()
        for gram in own[shared][order[:rarest]].tolist():
            earlier = earlier_pages[gram]
            candidates.update(earlier[-1:] if len(earlier) > COMMON else earlier)
            earlier.append(index)
        for other in candidates:
            both = len(np.intersect1d(own, pages[other].grams, assume_unique=True))
            text = both / (len(own) + len(pages[other].grams) - both)
            if text >= ALIKE_TEXT and _is_near(text, pages[index], pages[other]):
                yield other, index


def _repeated(grams: Sequence[Array]) -> tuple[Array, Array]:
    """The n-grams that several pages have, sorted, and how many pages have each; a part of all hashes at a time."""
    parts = 1 + sum(map(len, grams)) // HASHED_AT_ONCE
    bounds = np.array([part * 2**64 // parts for part in range(1, parts)], np.uint64)
    found: list[tuple[Array, Array]] = []
    cuts = [np.searchsorted(own, bounds) for own in grams]
    for part in range(parts):
        pieces = [np.split(own, cut)[part] for own, cut in zip(grams, cuts, strict=True)]
        hashes, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *pieces]), return_counts=True)
        found.append((hashes[counts > 1], counts[counts > 1]))
    return np.concatenate([hashes for hashes, _ in found]), np.concatenate([counts for _, counts in found])


def _is_near(text: float, one: Sketch, other: Sketch) -> bool:
    if min(len(one.numbers), len(other.numbers)) < NUMBERS:
        return text >= SAME_TEXT
    first, second = Counter(one.numbers.tolist()), Counter(other.numbers.tolist())
    return (first & second).total() / (first | second).total() >= SAME_NUMBERS
