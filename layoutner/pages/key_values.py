"""Find the words of given values (company, date, address, total) on a page. The values were typed in by people."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Literal, NamedTuple

from layoutner.pages.page import Word

How = Literal["exact", "other punctuation", "approximate"]

# Maximum edit distance of an approximate match, as a share of the value's letters and digits. Typed values differ from
# the transcript by single characters (JLN for JIN), rarely by a whole word.
TOLERANCE = 0.15
SHORTEST = 8  # minimum number of letters and digits of a value for approximate search
LARGEST_SEARCH = 1_000_000  # maximum of page letters times value letters; a real receipt has 100,000
MOST_PLACES = 300  # maximum number of occurrences checked per value and page; a real receipt has up to 100


class Match(NamedTuple):
    """A value was found at words start..end-1 of a page."""

    start: int
    end: int
    how: How


@dataclass(frozen=True)
class Rule:
    """How to choose between several matches of one kind of value."""

    rank: Callable[[Word, "_Lines"], tuple[float, ...]]  # key of a match's first word; the smallest is chosen
    amount: bool = False  # the value is a number: it must be on one line, and not part of a longer number
    approximate: bool = False


class _Line(NamedTuple):
    """A line of the page: its upper and lower edge in pixels, and its words in lower case."""

    top: float
    bottom: float
    text: str


_Lines = list[_Line]


class _Text(NamedTuple):
    """Case-folded characters of words, without skipped ones, and the position of each."""

    chars: str
    words: list[int]  # character -> index of its word
    offsets: list[int]  # character -> index in that word


def find_values(words: Sequence[Word], values: dict[str, str]) -> dict[str, Match]:
    """Find values among the words of a page, which are in reading order.

    Spaces and letter case are ignored. Punctuation is ignored too, but matches with the same punctuation are preferred.
    A value may begin or end inside a word, but not inside a number or a run of letters (9.00 is found in RM9.00); the
    match then consists of whole words. Company and address may differ in up to 15 % of their letters and digits. A
    match is a consecutive run of words, so other lines between two lines of a value count as differences.

    If a value has several matches, one is chosen:

    - company and address: the topmost;
    - date: the first in a row with the word "date", else the first;
    - total: the lowest in a row with the word "total", else with words such as "amount", else with words such as
      "sub-total" or "cash", else the lowest.

    No word belongs to two values.

    Args:
        words: words with boxes, and with their line number as segment.
        values: company, date, address, total; missing ones are not searched.

    Returns:
        Key -> match, for the values that were found.
    """
    texts = [word.text for word in words]
    lines = [_line(list(line)) for _, line in groupby(words, key=lambda word: word.segment)]
    spaced, bare = _text(texts, str.isspace), _text(texts, _is_mark)
    found: dict[str, Match] = {}
    for key, rule in RULES.items():
        taken = {index for match in found.values() for index in range(match.start, match.end)}
        for matches in _searches(texts, spaced, bare, values.get(key, ""), rule):
            free = [match for match in matches if taken.isdisjoint(range(match.start, match.end))]
            if rule.amount:
                free = [match for match in free if words[match.start].segment == words[match.end - 1].segment]
            if free:
                ranks = [(*rule.rank(words[match.start], lines), match.start) for match in free]
                found[key] = free[ranks.index(min(ranks))]
                break
    return found


def _searches(texts: list[str], spaced: _Text, bare: _Text, value: str, rule: Rule) -> Iterator[list[Match]]:
    """Yield the matches of searches that become more and more tolerant."""
    exact = _text([value], str.isspace).chars
    yield [Match(start, end, "exact") for start, end in _occurrences(texts, spaced, exact, rule)]
    if rule.amount:
        amounts = _amounts(value)
        equal = [index for index, text in enumerate(texts) if amounts and _amounts(text)[-1:] == amounts]
        yield [Match(index, index + 1, "other punctuation") for index in equal[:MOST_PLACES]]
        return
    pattern = _text([value], _is_mark).chars
    yield [Match(start, end, "other punctuation") for start, end in _occurrences(texts, bare, pattern, rule)]
    if rule.approximate and len(pattern) >= SHORTEST and len(pattern) * len(bare.chars) <= LARGEST_SEARCH:
        yield [Match(start, end, "approximate") for start, end in _approximate(bare, pattern)]


def _is_mark(character: str) -> bool:
    return not character.isalnum()


def _text(words: Sequence[str], skip: Callable[[str], bool]) -> _Text:
    """The characters of words, without those that `skip` selects."""
    chars: list[str] = []
    numbers: list[int] = []
    offsets: list[int] = []
    for number, word in enumerate(words):
        for offset, character in enumerate(word):
            if skip(character):
                continue
            for folded in character.casefold():  # may be two
                chars.append(folded)
                numbers.append(number)
                offsets.append(offset)
    return _Text("".join(chars), numbers, offsets)


def _occurrences(texts: list[str], text: _Text, pattern: str, rule: Rule) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the words where the pattern occurs and is not part of a longer word or number."""
    at = -1
    for _ in range(MOST_PLACES if pattern else 0):
        if (at := text.chars.find(pattern, at + 1)) < 0:
            return
        last = at + len(pattern) - 1
        offset, last_offset = text.offsets[at], text.offsets[last]
        before = texts[text.words[at]][max(0, offset - 2) : offset + 1][::-1]
        behind = texts[text.words[last]][last_offset : last_offset + 3]
        if not (_goes_on(before, rule.amount) or _goes_on(behind, rule.amount)):
            yield text.words[at], text.words[last] + 1


def _goes_on(text: str, amount: bool) -> bool:
    """Whether the run of letters or the number of the first character continues after it."""
    first, rest = text[0], text[1:2]
    if first.isalpha():
        return rest.isalpha()
    return first.isdigit() and (rest.isdigit() or (amount and re.match(r".[.,:/-]\d", text) is not None))


def _amounts(text: str) -> list[Decimal]:
    """The numbers in a text that have a decimal point: 1,234.50 is 1234.5."""
    numbers = re.findall(r"[0-9][0-9,]*+(?:\.[0-9]+)?", text)  # integers too, so that no match starts inside a number
    return [Decimal(number.replace(",", "")) for number in numbers if "." in number]


def _approximate(text: _Text, pattern: str) -> list[tuple[int, int]]:
    """Words of the substring with the smallest edit distance to the pattern; [] if it is above the tolerance.

    Algorithm: Sellers, "The theory and computation of evolutionary distances: pattern recognition" (1980). It keeps one
    column of edit distances; a match may start anywhere, and each cell stores where its match starts.
    """
    limit = int(len(pattern) * TOLERANCE)
    costs, starts = list(range(len(pattern) + 1)), [0] * (len(pattern) + 1)
    best = (limit + 1, 0, 0)
    for at, character in enumerate(text.chars):
        diagonal, diagonal_start = costs[0], starts[0]
        starts[0] = at + 1
        for row, wanted in enumerate(pattern, 1):
            cost, start = diagonal + (character != wanted), diagonal_start
            if costs[row] + 1 < cost:
                cost, start = costs[row] + 1, starts[row]
            if costs[row - 1] + 1 < cost:
                cost, start = costs[row - 1] + 1, starts[row - 1]
            diagonal, diagonal_start = costs[row], starts[row]
            costs[row], starts[row] = cost, start
        if costs[-1] < best[0]:
            best = (costs[-1], starts[-1], at + 1)
    cost, first, end = best
    if cost > limit:
        return []
    # A word belongs to the match if at least half of its letters do.
    whole, inside = Counter(text.words), Counter(text.words[first:end])
    held = [number for number, letters in inside.items() if 2 * letters >= whole[number]]
    return [(min(held), max(held) + 1)] if held else []


def _line(words: list[Word]) -> _Line:
    top, bottom = min(word.box[1] for word in words), max(word.box[3] for word in words)
    return _Line(top, bottom, " ".join(word.text for word in words).casefold())


def _row(word: Word, lines: _Lines) -> str:
    """Text of the lines in the same row as a word: their overlap is over a third of the smaller height of the two."""
    _, top, _, bottom = word.box
    return " ".join(
        line.text
        for line in lines
        if 3 * (min(bottom, line.bottom) - max(top, line.top)) > min(bottom - top, line.bottom - line.top)
    )


def _topmost(word: Word, _lines: _Lines) -> tuple[float, ...]:
    return (word.box[1],)


def _first_date(word: Word, lines: _Lines) -> tuple[float, ...]:
    return (-("date" in _row(word, lines)),)


def _last_total(word: Word, lines: _Lines) -> tuple[float, ...]:
    row = _row(word, lines)
    kind = next((kind for kind, cue in enumerate(TOTAL_CUES) if cue.search(row)), len(TOTAL_CUES))
    return kind, -word.box[3]


# Words in the row of a total, strongest evidence first. A row without any of them is most often the price of the only
# item.
TOTAL_CUES = (
    re.compile(r"(?<!sub)(?<!sub[ -])total(?![ -]*(excl|qty|item|sv|gv|disc|saving))"),
    re.compile(r"am(oun)?t|due|payable|net|rounding"),
    re.compile(r"sub|cash|credit|paid|tender"),
)


# In order of priority: earlier values claim their words first.
RULES = {
    "company": Rule(_topmost, approximate=True),
    "address": Rule(_topmost, approximate=True),
    "date": Rule(_first_date),
    "total": Rule(_last_total, amount=True),
}
