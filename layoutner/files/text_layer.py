"""The text layer of a PDF page: its characters and where they are become words in lines.

Boxes are in points, x0, y0, x1, y1, with the origin at the top left of the upright page.
"""

import unicodedata
from functools import reduce
from typing import NamedTuple

WORD_GAP = 0.15  # of a font's height; a space is 0.2 or more, and the tracking of a heading less than 0.1
SAME_LINE = 0.5  # of the height of the smaller of two characters: they overlap at least so much
NO_ROOM = 1e-3  # points; a box that is thinner shows nothing

Box = tuple[float, float, float, float]


class PdfWord(NamedTuple):
    """A word of a text layer."""

    text: str
    box: Box  # x0, y0, x1, y1 of its ink, in points
    segment: int  # number of its line


class TextLayer(NamedTuple):
    """The words of a page that can be seen, in the order of the page, from left to right in each line."""

    words: list[PdfWord]
    characters: int  # that are no white space, seen or not
    unmapped: int  # of these, characters whose meaning the file does not tell


class Upright:
    """From the coordinates of a PDF page (origin at the bottom left, not rotated) to those of the upright page."""

    def __init__(self, box: Box, turns: int) -> None:
        """
        Args:
            box: left, bottom, right, top of the page's crop box.
            turns: quarter turns clockwise that make the page upright.
        """
        self._box, self.turns = box, turns

    def box(self, box: Box) -> Box:
        """x0, y0, x1, y1 of left, bottom, right, top."""
        left, bottom, right, top = self._box
        x0, y0, x1, y1 = box
        match self.turns:
            case 0:
                return x0 - left, top - y1, x1 - left, top - y0
            case 1:
                return y0 - bottom, x0 - left, y1 - bottom, x1 - left
            case 2:
                return right - x1, y0 - bottom, right - x0, y1 - bottom
            case _:
                return top - y1, right - x1, top - y0, right - x0


class Character(NamedTuple):
    """A character; or white space, whose boxes mean nothing."""

    text: str
    ink: Box
    room: Box  # from its origin to that of the next, and from descender to ascender
    direction: int  # of its line: quarter turns counter-clockwise from left to right
    unmapped: bool

    def moved(self, place: Upright) -> "Character":
        """The same on the upright page."""
        return self._replace(
            ink=place.box(self.ink), room=place.box(self.room), direction=(self.direction - place.turns) % 4
        )

    @property
    def extent(self) -> Box:
        """Start and end along the line, and the two sides across it, as if it ran from left to right."""
        x0, y0, x1, y1 = self.room
        match self.direction:
            case 0:
                return x0, x1, y0, y1
            case 1:
                return -y1, -y0, x0, x1
            case 2:
                return -x1, -x0, -y1, -y0
            case _:
                return y0, y1, -x1, -x0


def layer(characters: list[Character], size: tuple[float, float]) -> TextLayer:
    """Divide the characters of a page into lines, and these into words."""
    lines: list[list[list[Character]]] = []
    before: Character | None = None
    ended = True  # whether white space ended the last word
    for character in characters:
        if character.text.isspace():
            ended = True
        if not character.text.strip():
            continue
        if before is None or not _same_line(before, character):
            lines.append([[character]])
        elif ended or _gap(before, character) > WORD_GAP * _height(before):
            lines[-1].append([character])
        else:
            lines[-1][-1].append(character)
        before, ended = character, False
    words = [
        PdfWord("".join(character.text for character in word), box, number)
        for number, line in enumerate(lines)
        for word in _in_order(line)
        if (box := _seen(word, size)) is not None
    ]
    shown = [character for line in lines for word in line for character in word]
    return TextLayer(words, len(shown), sum(character.unmapped for character in shown))


def _same_line(before: Character, character: Character) -> bool:
    if before.direction != character.direction:
        return False
    (_, _, low, high), (_, _, low_2, high_2) = before.extent, character.extent
    return min(high, high_2) - max(low, low_2) >= SAME_LINE * min(high - low, high_2 - low_2)


def _gap(before: Character, character: Character) -> float:
    """The distance between two characters of a line, in either direction of writing."""
    (start, end, _, _), (start_2, end_2, _, _) = before.extent, character.extent
    return max(start_2 - end, start - end_2)


def _height(character: Character) -> float:
    _, _, low, high = character.extent
    return high - low


def _in_order(line: list[list[Character]]) -> list[list[Character]]:
    """The words of a line as they are read. A file may draw them in any order."""
    letters = [unicodedata.bidirectional(letter.text[0]) for word in line for letter in word]
    if sum(letter in ("R", "AL") for letter in letters) > letters.count("L"):
        return sorted(line, key=lambda word: -max(letter.extent[1] for letter in word))
    return sorted(line, key=lambda word: min(letter.extent[0] for letter in word))


def _seen(word: list[Character], size: tuple[float, float]) -> Box | None:
    """The box of a word, cut to the page; None if most of it lies off the page, or if nothing of it can be seen."""
    x0, y0, x1, y1 = reduce(_union, (character.ink for character in word))
    if not (0 <= (x0 + x1) / 2 <= size[0] and 0 <= (y0 + y1) / 2 <= size[1]):
        return None
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, size[0]), min(y1, size[1])
    return (x0, y0, x1, y1) if x1 - x0 > NO_ROOM and y1 - y0 > NO_ROOM else None


def _union(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def meaning(code: int, hyphen: bool) -> tuple[str, bool]:
    """The text of a character code of pdfium, and whether its meaning is not known. "" = it shows nothing."""
    # pdfium replaces the hyphen at the end of a line by a control character; fonts take U+00AD for a hyphen.
    if hyphen or code in (0x02, 0xAD, 0xFFFE):
        return "-", False
    if code > 0x10FFFF:
        return "\ufffd", True
    text = chr(code)
    if text.isspace():
        return " ", False
    if 0xFB00 <= code <= 0xFB06:  # ligatures such as fi
        return unicodedata.normalize("NFKC", text), False
    match unicodedata.category(text):
        case "Cf":  # such as a zero-width space
            return "", False
        case "Co":
            return text, True
        case "Cc" | "Cs" | "Cn":
            return "\ufffd", True
    return text, code == 0xFFFD
