"""Where on a page the values stand that somebody keyed in for it (company, date, address, total)."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Literal, NamedTuple

from layoutner.pages.page import Word

How = Literal["exact", "other punctuation", "approximate"]

# An approximate match may differ from its value in this share of the letters and digits. What people key in differs
# from the transcript by single characters (JLN for JIN), rarely by a whole word.
TOLERANCE = 0.15
SHORTEST = 8  # letters and digits of a value that is looked for approximately
LARGEST_SEARCH = 1_000_000  # letters of the page times letters of the value; a real receipt takes 100,000
MOST_PLACES = 300  # of one value's characters on one page that are looked at; a real receipt has up to a hundred


class Match(NamedTuple):
    """Words start..end-1 of a page hold a value."""

    start: int
    end: int
    how: How


@dataclass(frozen=True)
class Rule:
    """How one kind of value is told from the same characters elsewhere on the page."""

    rank: Callable[[Word, "_Lines"], tuple[float, ...]]  # of first words of several matches the smallest is meant
    amount: bool = False  # a number on one line, not a part of a longer one
    approximate: bool = False


class _Line(NamedTuple):
    """A line of the page: its upper and lower edge in pixels, and its words in lower case."""

    top: float
    bottom: float
    text: str


_Lines = list[_Line]


class _Text(NamedTuple):
    """The characters of words that count, in one letter case, and where each of them stands."""

    chars: str
    words: list[int]  # character -> index of its word
    offsets: list[int]  # character -> index in that word


def find_values(words: Sequence[Word], values: dict[str, str]) -> dict[str, Match]:
    """Find values among the words of a page, which stand in reading order.

    Spacing and letter case do not matter; punctuation does only where one match has the value's and another has not.
    A value may begin or end inside a word where it is not in the middle of a number or of letters (9.00 in RM9.00):
    the match is of whole words. Company and address are also found where up to 15 % of the letters and digits
    differ. A match is an unbroken run of words: lines of something else between two lines of a value count as
    letters that differ. Of several matches, company and address take the topmost, date the first beside the word
    "date", else the first, and total the lowest beside the word "total", else beside words such as "amount", else
    beside "sub-total", "cash" and the like, else the lowest. No word is given to two values.

    Args:
        words: with boxes, and the number of their line as segment.
        values: company, date, address, total; one that is missing is not looked for.

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
    """Matches by ever more tolerant searches."""
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
    """The characters of words but for those to skip."""
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
    """Words start..end-1 of the places where the pattern is not part of a longer word or number."""
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
    """Whether the letters or the number that the first character belongs to go on behind it."""
    first, rest = text[0], text[1:2]
    if first.isalpha():
        return rest.isalpha()
    return first.isdigit() and (rest.isdigit() or (amount and re.match(r".[.,:/-]\d", text) is not None))


def _amounts(text: str) -> list[Decimal]:
    """The numbers of a text that have a decimal point: 1,234.50 is 1234.5."""
    numbers = re.findall(r"[0-9][0-9,]*+(?:\.[0-9]+)?", text)  # whole ones too, so that none is begun on twice
    return [Decimal(number.replace(",", "")) for number in numbers if "." in number]


def _approximate(text: _Text, pattern: str) -> list[tuple[int, int]]:
    """The words of the place whose letters differ least from the pattern, where they differ little enough.

    The column of edit distances of Sellers, "The theory and computation of evolutionary distances: pattern
    recognition" (1980): a match may begin anywhere, each cell carries where its own began.
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
    # A word belongs to the match with half of its letters or more.
    whole, inside = Counter(text.words), Counter(text.words[first:end])
    held = [number for number, letters in inside.items() if 2 * letters >= whole[number]]
    return [(min(held), max(held) + 1)] if held else []


def _line(words: list[Word]) -> _Line:
    top, bottom = min(word.box[1] for word in words), max(word.box[3] for word in words)
    return _Line(top, bottom, " ".join(word.text for word in words).casefold())


def _row(word: Word, lines: _Lines) -> str:
    """The lines beside a word: those that share a third of their height, or of the word's, with it."""
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


# What stands beside a total, the best evidence first; a row of none of them is most often the only item's price.
TOTAL_CUES = (
    re.compile(r"(?<!sub)(?<!sub[ -])total(?![ -]*(excl|qty|item|sv|gv|disc|saving))"),
    re.compile(r"am(oun)?t|due|payable|net|rounding"),
    re.compile(r"sub|cash|credit|paid|tender"),
)


# In the order in which they claim their words.
RULES = {
    "company": Rule(_topmost, approximate=True),
    "address": Rule(_topmost, approximate=True),
    "date": Rule(_first_date),
    "total": Rule(_last_total, amount=True),
}
