"""Regions of a page become labels of its words."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from layoutner.annotations.region import Region
from layoutner.pages.document import Box, Document

HALF = 0.5  # a region has a word if it covers at least this share of the word's area
EDGE = 0.1  # a word of which a smaller share is on the other side of a region's edge does not count as cut


class CutWord(NamedTuple):
    """A word that the edge of a region goes through."""

    page: str
    text: str
    type: str  # of the region
    share: float  # of the word's area in the region


@dataclass
class LabelCounts:
    """What became of regions and words."""

    matched: int = 0  # regions with at least one word
    empty: list[str] = field(default_factory=list)  # regions without a word: page and type
    unlabelled: int = 0  # regions without a label
    cut: list[CutWord] = field(default_factory=list)
    contested: int = 0  # words that two regions cover by half or more
    interrupted: int = 0  # entities that became several, because other words come between their words
    outside: int = 0  # words in no region
    inside: int = 0  # words in a region
    types: Counter[str] = field(default_factory=Counter)  # type -> entities


def label_words(document: Document, regions: Sequence[Region], counts: LabelCounts) -> tuple[str, ...]:
    """The BIO tags of a page's words.

    A word belongs to the region that covers most of its area, if that is at least half; of equals to the smaller one,
    then to the first. Words of one region that follow each other are an entity. The words keep their order: it is the
    order in which a model will see them.
    """
    labelled = [region for region in regions if region.type is not None]
    counts.unlabelled += len(regions) - len(labelled)
    with_words: set[int] = set()
    owners: list[tuple[str, str] | None] = []  # (entity, type) of each word
    for text, box in zip(document.words, document.boxes, strict=True):
        owner = _owner(document.name, text, box, labelled, counts)
        if owner is None:
            owners.append(None)
            continue
        with_words.add(owner)
        region = labelled[owner]
        assert region.type is not None, "only regions with a label are here"
        owners.append((region.entity or str(owner), region.type))
    counts.matched += len(with_words)
    counts.empty += [
        f"{document.name}: {region.type}" for index, region in enumerate(labelled) if index not in with_words
    ]
    tags = []
    starts: Counter[tuple[str, str]] = Counter()
    for before, entity in zip([None, *owners], owners, strict=False):
        if entity is None:
            tags.append("O")
            continue
        starts[entity] += entity != before
        tags.append(f"{'I' if entity == before else 'B'}-{entity[1]}")
    counts.interrupted += sum(count > 1 for count in starts.values())
    for (_, kind), count in starts.items():
        counts.types[kind] += count
    counts.inside += len(owners) - owners.count(None)
    counts.outside += owners.count(None)
    return tuple(tags)


def _owner(page: str, text: str, box: Box, regions: Sequence[Region], counts: LabelCounts) -> int | None:
    """Index of the region that a word belongs to; None if there is none."""
    x0, y0, x1, y1 = (side / 1000 for side in with_area(box))
    shares = [(round(region.share_of((x0, y0, x1, y1)), 6), index) for index, region in enumerate(regions)]
    shares = [(share, index) for share, index in shares if share > 0]
    if not shares:
        return None
    best, owner = max(shares, key=lambda pair: (pair[0], -regions[pair[1]].area, -pair[1]))
    if EDGE < best < 1 - EDGE:
        counts.cut.append(CutWord(page, text, str(regions[owner].type), best))
    if best < HALF:
        return None
    entities = {(regions[index].entity or index, regions[index].type) for share, index in shares if share >= HALF}
    counts.contested += len(entities) > 1
    return owner


def with_area(box: Box) -> Box:
    """The box, at least a thousandth of the page wide and high."""
    x0, y0, x1, y1 = box
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)
