"""Split documents, keeping near-identical pages together, and the pages of one document too.

Otherwise the model could be scored on a page whose copy it was trained on, or on another page of the same invoice, with
the same letterhead and layout.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, combinations

import numpy as np

from layoutner.documents.columns import Documents, group_hashes, page_digests, word_counts
from layoutner.documents.duplicates import Pair, compare, find_pairs, join, roots, sketches
from layoutner.errors import DataError, SettingsError
from layoutner.files.arrays import Array
from layoutner.pages.document import Document

# With a store among them, more pages than this are not compared for near-identical ones at the start of a run.
MOST_COMPARED = 20_000
# Share of the pages of data.eval that may also be in data.test, and vice versa. Public datasets contain about 1 % of
# their pages twice by accident.
ACCIDENT = 0.1


def split(documents: Sequence[Document], fraction: float, seed: int) -> tuple[Sequence[Document], Sequence[Document]]:
    """Split off a fraction of the documents: (the rest, the fraction), both in the original order.

    Groups of near-identical pages stay together. The fraction has at most round(fraction * count) documents. It has
    fewer only if no remaining page or group fits.

    Raises:
        SettingsError: one of the two would be empty.
    """
    count = round(len(documents) * fraction)
    if not 0 < count < len(documents):
        raise SettingsError(
            f"data.eval = {fraction:g} of {len(documents)} documents is {count}: "
            "training and evaluation need at least one document each"
        )
    unit_of, sizes = _units(documents)
    rng = random.Random(f"{seed}/eval")
    drawn = rng.sample(range(len(sizes)), min(count, len(sizes)))
    chosen: list[int] = []
    left = count
    for number in chain(drawn, _shuffled_others(drawn, len(sizes), rng)):
        if sizes[number] <= left:
            chosen.append(number)
            left -= int(sizes[number])
        if not left:
            break
    if not chosen:
        raise SettingsError(
            f"data.eval = {fraction:g} of {len(documents)} documents is {count}, but near-identical pages stay "
            f"together and the smallest of their {len(sizes)} groups has {sizes.min()}; take a larger fraction"
        )
    return _parted(documents, np.isin(unit_of, chosen))


def _shuffled_others(drawn: list[int], count: int, rng: random.Random) -> Iterator[int]:
    """Yield the numbers below `count` that are not drawn, in random order. Usually none of them is needed."""
    others = sorted(set(range(count)) - set(drawn))
    yield from rng.sample(others, len(others))


def fold(
    documents: Sequence[Document], folds: int, number: int, seed: int
) -> tuple[Sequence[Document], Sequence[Document]]:
    """Split off one fold of a cross-validation: (the rest, the fold), both in the original order.

    Groups of near-identical pages stay together. Every document is in exactly one fold. Fold sizes differ by at most
    one document, or by more if groups are too large to be distributed evenly.

    Args:
        folds: number of folds.
        number: which fold, from 1.

    Raises:
        SettingsError: a fold would be empty.
    """
    unit_of, sizes = _units(documents)
    if len(sizes) < folds:
        raise SettingsError(
            f"data.folds = {folds} of {len(documents)} documents in {len(sizes)} groups of near-identical pages: "
            "at least one fold would be empty"
        )
    shuffled = random.Random(f"{seed}/folds").sample(range(len(sizes)), len(sizes))
    fold_of = np.zeros(len(sizes), np.int64)
    filled = [0] * folds
    for unit in sorted(shuffled, key=lambda unit: -sizes[unit]):
        fold_of[unit] = smallest = filled.index(min(filled))
        filled[smallest] += int(sizes[unit])
    return _parted(documents, fold_of[unit_of] == number - 1)


def unit_roots(documents: Sequence[Document]) -> Array:
    """For each document, the first of those that stay together with it: near-identical pages and those of a group."""
    if isinstance(documents, Documents):
        return documents.unit_roots
    pairs = [*find_pairs(documents), *group_pairs(group_hashes(documents))]
    return roots(pairs, len(documents))


def _units(documents: Sequence[Document]) -> tuple[Array, Array]:
    """Number of the unit of each document, by the unit's first document; and the number of documents of each unit."""
    _, unit_of, sizes = np.unique(unit_roots(documents), return_inverse=True, return_counts=True)
    return unit_of, sizes


def group_pairs(hashes: Array) -> list[Pair]:
    """Pair each page of a group with the group's first page. `hashes`: of the pages, from `group_hash`."""
    _, first, number = np.unique(hashes, return_index=True, return_inverse=True)
    found = np.flatnonzero((first[number] != np.arange(len(hashes))) & (hashes != 0))
    return [Pair(int(first[number[index]]), int(index), identical=False) for index in found]


def _parted(documents: Sequence[Document], inside: Array) -> tuple[Sequence[Document], Sequence[Document]]:
    rest, chosen = np.flatnonzero(~inside), np.flatnonzero(inside)
    if isinstance(documents, Documents):
        return documents.select(rest), documents.select(chosen)
    return [documents[index] for index in rest.tolist()], [documents[index] for index in chosen.tolist()]


def leaks(roles: dict[str, Sequence[Document]]) -> list[str]:
    """Notes on pages of one role that are near-identical to pages of another, or of the same document.

    Args:
        roles: documents of "train", "eval" and "test", or of some of them, in this order.

    Raises:
        DataError: more than `ACCIDENT` of the pages of data.eval are also in data.test, or vice versa.
    """
    everything = [(role, number) for role, documents in roles.items() for number in range(len(documents))]
    lines = []
    if any(isinstance(documents, Documents) for documents in roles.values()) and len(everything) > MOST_COMPARED:
        # Comparing them would take minutes at the start of every run.
        pairs = _identical(roles)
        lines.append(f"note: of {len(everything)} pages, only identical ones were looked for across the splits")
    else:
        pairs = compare([page for documents in roles.values() for page in sketches(documents)])
    for one, other in combinations(roles, 2):
        twins = _twins(join(pairs, len(everything)), everything, roles, one, other)
        if (one, other) == ("eval", "test"):
            identical = [pair for pair in pairs if pair.identical]
            same = _twins(join(identical, len(everything)), everything, roles, one, other)
            count, tested = sum(len(ours) for ours, _ in same), sum(len(theirs) for _, theirs in same)
            # A single page is always accepted as an accident.
            if count > max(1, ACCIDENT * len(roles[one])) or tested > max(1, ACCIDENT * len(roles[other])):
                raise DataError(
                    f"{count} of {len(roles[one])} pages of data.eval are pages of data.test, such as {same[0][0][0]}: "
                    "this would choose the checkpoint on the test pages. Remove them from data.eval, or use part of "
                    "the training documents (data.eval = 0.1). To choose on the test pages on purpose, set "
                    "data.selection_split = test and leave out data.eval; scores.json then says so"
                )
        groups = _shared_groups(roles[one], roles[other])
        if groups:
            some = ", ".join(sorted(groups)[:3]) + (", ..." if groups[3:] else "")
            count = len(_shared(roles[one], roles[other]))
            lines.append(
                f"note: {count} of {len(roles[other])} pages of data.{other} belong to documents that also have pages "
                f"in data.{one}: {some}"
            )
        if twins:
            count = sum(len(theirs) for _, theirs in twins)
            some = ", ".join(f"{theirs[0]} ({ours[0]})" for ours, theirs in twins[:3]) + (", ..." if twins[3:] else "")
            lines.append(
                f"note: {count} of {len(roles[other])} pages of data.{other} are identical or near-identical to pages "
                f"of data.{one}: {some}"
            )
    return lines


def _twins(
    groups: list[list[int]],
    everything: list[tuple[str, int]],
    roles: dict[str, Sequence[Document]],
    one: str,
    other: str,
) -> list[tuple[list[str], list[str]]]:
    """For each group with pages of both roles: (names of its pages of the one role, names of those of the other)."""
    found = []
    for group in groups:
        names: dict[str, list[str]] = {one: [], other: []}
        for role, number in (everything[index] for index in group):
            names.setdefault(role, []).append(roles[role][number].name)
        if names[one] and names[other]:
            found.append((names[one], names[other]))
    return found


def _shared_groups(one: Sequence[Document], other: Sequence[Document]) -> list[str]:
    """Groups that have pages in both roles."""
    found = {other[index].group for index in _shared(one, other)}
    return sorted(group for group in found if group is not None)


def _shared(one: Sequence[Document], other: Sequence[Document]) -> Array:
    """Indices of the pages of the other role whose group has pages in the one role."""
    theirs = group_hashes(other)
    return np.flatnonzero(np.isin(theirs, group_hashes(one)) & (theirs != 0))


def _identical(roles: dict[str, Sequence[Document]]) -> list[Pair]:
    """Pairs of pages with the same words in the same boxes, across the roles; each with the first such page."""
    digests = np.concatenate([page_digests(documents) for documents in roles.values()])
    words = np.concatenate([word_counts(documents) for documents in roles.values()])
    _, first, number = np.unique(digests, return_index=True, return_inverse=True)
    earlier = first[number]
    found = np.flatnonzero((earlier != np.arange(len(digests))) & (words > 0))
    return [Pair(int(earlier[index]), int(index), identical=True) for index in found]


# Matches names such as invoice-7-p2, scan_page_03, contract (2): the document's name and the page number.
PAGE_NAME = re.compile(
    r"(?P<document>.+?)[ _.-]*(?:(?:p|pg|page|seite)[ _.-]*(?P<marked>\d{1,4})|(?<!\d)\(?(?P<number>\d{1,2})\)?)", re.I
)
MOST_PAGES = 30  # more numbers under one name are taken for numbers of documents, not of pages


def name_note(documents: Sequence[Document]) -> str | None:
    """A note if page names look like those of multi-page documents and no document has a group; else None."""
    if any(document.group is not None for document in documents):
        return None
    return names_note([document.name for document in documents])


def names_note(names: Sequence[str]) -> str | None:
    """A note if the names of pages without groups look like those of multi-page documents; else None."""
    pages: dict[str, set[int]] = defaultdict(set)
    for name in names:
        found = PAGE_NAME.fullmatch(name)
        if found:
            pages[found["document"]].add(int(found["marked"] or found["number"]))
    # Page numbers start at 0 or 1 and have no gaps. Other numbers occur alone or far from each other.
    several = {
        document: numbers
        for document, numbers in pages.items()
        if 1 < len(numbers) <= MOST_PAGES and min(numbers) < 2 and max(numbers) - min(numbers) < len(numbers)
    }
    if len(several) < 2 or 2 * sum(map(len, several.values())) < len(names):
        return None
    name, numbers = min(several.items())
    return (
        f"{sum(map(len, several.values()))} of {len(names)} page names look like pages of {len(several)} "
        f"documents, such as the {len(numbers)} of {name!r}; set data.group_by to keep the pages of a document "
        "together: a split that separates them inflates the score"
    )
