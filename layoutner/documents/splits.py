"""Parting documents: near-identical pages stay together, and so do the pages of one document.

A page must not be scored by its own copy, nor by the other pages of its invoice, which share letterhead and layout.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

from layoutner.documents.duplicates import Pair, find_pairs, join
from layoutner.errors import DataError, SettingsError
from layoutner.pages.document import Document

# Share of the pages of data.eval that may be in data.test too, and the other way round: public sets hold a page in a
# hundred twice by accident.
ACCIDENT = 0.1


def split(documents: list[Document], fraction: float, seed: int) -> tuple[list[Document], list[Document]]:
    """Part a fraction of the documents from the rest: (the rest, the fraction), both in their old order.

    Groups of near-identical pages stay whole. The fraction never exceeds its rounded count, and falls short of it
    only where no page or group is small enough to fill it up.

    Raises:
        SettingsError: one of the two would be empty.
    """
    count = round(len(documents) * fraction)
    if not 0 < count < len(documents):
        raise SettingsError(
            f"data.eval = {fraction:g} of {len(documents)} documents is {count}: none would be left over"
        )
    units = _units(documents)
    rng = random.Random(f"{seed}/eval")
    drawn = rng.sample(range(len(units)), min(count, len(units)))
    others = sorted(set(range(len(units))) - set(drawn))
    chosen: set[int] = set()
    for number in [*drawn, *rng.sample(others, len(others))]:
        if len(chosen) + len(units[number]) <= count:
            chosen.update(units[number])
    if not chosen:
        raise SettingsError(
            f"data.eval = {fraction:g} of {len(documents)} documents is {count}, but near-identical pages stay "
            f"together and the smallest of their {len(units)} groups has {min(map(len, units))}; take a larger fraction"
        )
    return _parted(documents, chosen)


def fold(documents: list[Document], folds: int, number: int, seed: int) -> tuple[list[Document], list[Document]]:
    """Part one fold of a cross-validation from the rest: (the rest, the fold), both in their old order.

    Groups of near-identical pages stay whole. Every document is in exactly one fold; folds differ by one document at
    most, or by more where groups are too large to be dealt out evenly.

    Args:
        folds: how many.
        number: which one, from 1.

    Raises:
        SettingsError: a fold would be empty.
    """
    units = _units(documents)
    if len(units) < folds:
        raise SettingsError(
            f"data.folds = {folds} of {len(documents)} documents in {len(units)} groups of near-identical pages: "
            "at least one fold would be empty"
        )
    shuffled = random.Random(f"{seed}/folds").sample(units, len(units))
    dealt: list[set[int]] = [set() for _ in range(folds)]
    for unit in sorted(shuffled, key=len, reverse=True):
        min(dealt, key=len).update(unit)
    return _parted(documents, dealt[number - 1])


def _units(documents: Sequence[Document]) -> list[list[int]]:
    """Indices of documents that stay together, in the order of their first."""
    groups = join([*find_pairs(documents), *_group_pairs(documents)], len(documents))
    alone = set(range(len(documents))) - {index for group in groups for index in group}
    return sorted([*groups, *([index] for index in alone)])


def _group_pairs(documents: Sequence[Document]) -> list[Pair]:
    """Each page of a group with the first one of it."""
    first: dict[str, int] = {}
    pairs = []
    for index, document in enumerate(documents):
        if document.group is not None and (earlier := first.setdefault(document.group, index)) != index:
            pairs.append(Pair(earlier, index, identical=False))
    return pairs


def _parted(documents: list[Document], chosen: Iterable[int]) -> tuple[list[Document], list[Document]]:
    inside = set(chosen)
    rest = [document for index, document in enumerate(documents) if index not in inside]
    return rest, [document for index, document in enumerate(documents) if index in inside]


def leaks(roles: dict[str, list[Document]]) -> list[str]:
    """Which pages of one role are near-identical to pages of another: a line for each two roles that share some.

    Args:
        roles: documents of "train", "eval" and "test", or of some of them, in this order.

    Raises:
        DataError: pages that choose the checkpoint are those of the test split.
    """
    everything = [(role, document) for role, documents in roles.items() for document in documents]
    pairs = find_pairs([document for _, document in everything])
    lines = []
    for one, other in combinations(roles, 2):
        twins = _twins(join(pairs, len(everything)), everything, one, other)
        if (one, other) == ("eval", "test"):
            same = _twins(join([pair for pair in pairs if pair.identical], len(everything)), everything, one, other)
            count, tested = sum(len(ours) for ours, _ in same), sum(len(theirs) for _, theirs in same)
            # One page is an accident in any number of them.
            if count > max(1, ACCIDENT * len(roles[one])) or tested > max(1, ACCIDENT * len(roles[other])):
                raise DataError(
                    f"{count} of {len(roles[one])} pages of data.eval are pages of data.test, such as {same[0][0][0]}: "
                    "this would choose the checkpoint on the test pages. Take them out of data.eval, or give part of "
                    "the training documents (data.eval = 0.1); data.selection_split = test, without data.eval, does "
                    "it on purpose and writes so into the score"
                )
        groups = _shared_groups(roles[one], roles[other])
        if groups:
            some = ", ".join(sorted(groups)[:3]) + (", ..." if groups[3:] else "")
            count = sum(document.group in groups for document in roles[other])
            lines.append(
                f"note: {count} of {len(roles[other])} pages of data.{other} are of documents that data.{one} has "
                f"pages of: {some}"
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
    groups: list[list[int]], everything: list[tuple[str, Document]], one: str, other: str
) -> list[tuple[list[str], list[str]]]:
    """Groups with pages of both roles: names of those of the one, names of those of the other."""
    found = []
    for group in groups:
        names: dict[str, list[str]] = {one: [], other: []}
        for role, document in (everything[index] for index in group):
            names.setdefault(role, []).append(document.name)
        if names[one] and names[other]:
            found.append((names[one], names[other]))
    return found


def _shared_groups(one: Sequence[Document], other: Sequence[Document]) -> list[str]:
    """Groups that have pages in both roles."""
    ours, theirs = ({document.group for document in role if document.group is not None} for role in (one, other))
    return sorted(ours & theirs)


# invoice-7-p2, scan_page_03, contract (2): what stands before the page, and the page.
PAGE_NAME = re.compile(
    r"(?P<document>.+?)[ _.-]*(?:(?:p|pg|page|seite)[ _.-]*(?P<marked>\d{1,4})|(?<!\d)\(?(?P<number>\d{1,2})\)?)", re.I
)
MOST_PAGES = 30  # a longer row of numbers counts documents, not pages


def name_note(documents: Sequence[Document]) -> str | None:
    """What there is to say where names look like pages of documents, and no document has a group."""
    if any(document.group is not None for document in documents):
        return None
    pages: dict[str, set[int]] = defaultdict(set)
    for document in documents:
        found = PAGE_NAME.fullmatch(document.name)
        if found:
            pages[found["document"]].add(int(found["marked"] or found["number"]))
    # Pages are counted from 0 or 1 without a gap; a number that is none stands alone or far from others.
    several = {
        name: numbers
        for name, numbers in pages.items()
        if 1 < len(numbers) <= MOST_PAGES and min(numbers) < 2 and max(numbers) - min(numbers) < len(numbers)
    }
    if len(several) < 2 or 2 * sum(map(len, several.values())) < len(documents):
        return None
    name, numbers = min(several.items())
    return (
        f"{sum(map(len, several.values()))} of {len(documents)} page names look like pages of {len(several)} "
        f"documents, such as the {len(numbers)} of {name!r}; data.group_by keeps the pages of a document together, "
        "and without it a split may part them, which flatters the score"
    )
