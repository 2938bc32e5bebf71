"""Split documents, keeping near-identical pages together, and the pages of one document too.

Otherwise the model could be scored on a page whose copy it was trained on, or on another page of the same invoice, with
the same letterhead and layout.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

from layoutner.documents.duplicates import Pair, find_pairs, join
from layoutner.errors import DataError, SettingsError
from layoutner.pages.document import Document

# Share of the pages of data.eval that may also be in data.test, and vice versa. Public datasets contain about 1 % of
# their pages twice by accident.
ACCIDENT = 0.1


def split(documents: list[Document], fraction: float, seed: int) -> tuple[list[Document], list[Document]]:
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
    """Split off one fold of a cross-validation: (the rest, the fold), both in the original order.

    Groups of near-identical pages stay together. Every document is in exactly one fold. Fold sizes differ by at most
    one document, or by more if groups are too large to be distributed evenly.

    Args:
        folds: number of folds.
        number: which fold, from 1.

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
    """Lists of indices of documents that stay together, sorted by their first index."""
    groups = join([*find_pairs(documents), *_group_pairs(documents)], len(documents))
    alone = set(range(len(documents))) - {index for group in groups for index in group}
    return sorted([*groups, *([index] for index in alone)])


def _group_pairs(documents: Sequence[Document]) -> list[Pair]:
    """Pair each page of a group with the group's first page."""
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
    """Notes on pages of one role that are near-identical to pages of another, or of the same document.

    Args:
        roles: documents of "train", "eval" and "test", or of some of them, in this order.

    Raises:
        DataError: more than `ACCIDENT` of the pages of data.eval are also in data.test, or vice versa.
    """
    everything = [(role, document) for role, documents in roles.items() for document in documents]
    pairs = find_pairs([document for _, document in everything])
    lines = []
    for one, other in combinations(roles, 2):
        twins = _twins(join(pairs, len(everything)), everything, one, other)
        if (one, other) == ("eval", "test"):
            same = _twins(join([pair for pair in pairs if pair.identical], len(everything)), everything, one, other)
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
            count = sum(document.group in groups for document in roles[other])
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
    groups: list[list[int]], everything: list[tuple[str, Document]], one: str, other: str
) -> list[tuple[list[str], list[str]]]:
    """For each group with pages of both roles: (names of its pages of the one role, names of those of the other)."""
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


# Matches names such as invoice-7-p2, scan_page_03, contract (2): the document's name and the page number.
PAGE_NAME = re.compile(
    r"(?P<document>.+?)[ _.-]*(?:(?:p|pg|page|seite)[ _.-]*(?P<marked>\d{1,4})|(?<!\d)\(?(?P<number>\d{1,2})\)?)", re.I
)
MOST_PAGES = 30  # more numbers under one name are taken for numbers of documents, not of pages


def name_note(documents: Sequence[Document]) -> str | None:
    """A note if page names look like those of multi-page documents and no document has a group; else None."""
    if any(document.group is not None for document in documents):
        return None
    pages: dict[str, set[int]] = defaultdict(set)
    for document in documents:
        found = PAGE_NAME.fullmatch(document.name)
        if found:
            pages[found["document"]].add(int(found["marked"] or found["number"]))
    # Page numbers start at 0 or 1 and have no gaps. Other numbers occur alone or far from each other.
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
        f"documents, such as the {len(numbers)} of {name!r}; set data.group_by to keep the pages of a document "
        "together: a split that separates them inflates the score"
    )
