"""Read JSON or HJSON, with line and column of every key and value.

DeepSpeed reads its config with the hjson library, so it accepts comments, trailing commas and unquoted text. That
library does not give the position of a key, which a finding needs; this reader does. It follows the HJSON syntax
(https://hjson.github.io/syntax.html). Tests compare what it reads with the library.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
_PUNCTUATION = "{}[],:"
_ESCAPES = {'"': '"', "'": "'", "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class SourceError(ValueError):
    """The text is neither JSON nor HJSON. The message gives line and column."""


@dataclass
class Node:
    """A value and where it starts (1-based)."""

    line: int
    column: int
    scalar: Any = None
    members: list["Member"] | None = None  # of an object, in order, duplicates included
    items: list["Node"] | None = None  # of an array

    def value(self) -> Any:
        """The value as Python data. Of a duplicate key, the last value counts."""
        if self.members is not None:
            return {member.key: member.node.value() for member in self.members}
        if self.items is not None:
            return [item.value() for item in self.items]
        return self.scalar


@dataclass
class Member:
    """A key of an object, its position, and its value."""

    key: str
    line: int
    column: int
    node: Node


@dataclass
class _Reader:
    text: str
    at: int = 0
    depth: int = field(default=0)

    def place(self, at: int) -> tuple[int, int]:
        """Line and column of an offset, 1-based."""
        return self.text.count("\n", 0, at) + 1, at - self.text.rfind("\n", 0, at)

    def fail(self, what: str, at: int | None = None) -> SourceError:
        line, column = self.place(self.at if at is None else at)
        return SourceError(f"line {line} column {column}: {what}")

    def peek(self) -> str:
        """The next character after white space and comments; "" at the end."""
        while self.at < len(self.text):
            two = self.text[self.at : self.at + 2]
            if two == "/*":
                end = self.text.find("*/", self.at + 2)
                if end < 0:
                    raise self.fail("a comment that is not closed")
                self.at = end + 2
            elif two == "//" or two[0] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif two[0] <= " " or two[0] == "\ufeff":
                self.at += 1
            else:
                return two[0]
        return ""

    def read(self) -> Node:
        first = self.peek()
        start = self.at
        if first == "{":
            root = self.value()
        else:
            # HJSON allows the outer braces to be left out. If that fails, the text is a single value.
            try:
                root = self.object(braces=False)
            except SourceError:
                self.at = start
                root = self.value()
        if self.peek():
            raise self.fail(f"unexpected {self.text[self.at]!r} after the end")
        return root

    def value(self) -> Node:
        first = self.peek()
        if not first:
            raise self.fail("the text ends, but a value is expected")
        if first in "{[":
            self.depth += 1
            if self.depth > 100:
                raise self.fail("nested more than 100 deep")
            node = self.object(braces=True) if first == "{" else self.array()
            self.depth -= 1
            return node
        line, column = self.place(self.at)
        if self.text.startswith("'''", self.at):
            return Node(line, column, self.block_text())
        if first in "\"'":
            return Node(line, column, self.quoted())
        return Node(line, column, self.unquoted())

    def object(self, braces: bool) -> Node:
        line, column = self.place(self.at)
        node = Node(line, column, members=[])
        assert node.members is not None
        self.at += braces
        while True:
            first = self.peek()
            if first == "}" and braces:
                self.at += 1
                return node
            if not first and not braces:
                return node
            if not first:
                raise self.fail("an object that is not closed")
            where = self.place(self.at)
            key = self.quoted() if first in "\"'" else self.key()
            if self.peek() != ":":
                raise self.fail(f"expected a colon after the key {key!r}")
            self.at += 1
            node.members.append(Member(key, *where, self.value()))
            if self.peek() == ",":
                self.at += 1

    def array(self) -> Node:
        line, column = self.place(self.at)
        node = Node(line, column, items=[])
        assert node.items is not None
        self.at += 1
        while self.peek() != "]":
            if not self.peek():
                raise self.fail("an array that is not closed")
            node.items.append(self.value())
            if self.peek() == ",":
                self.at += 1
        self.at += 1
        return node

    def key(self) -> str:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] > " " and self.text[self.at] not in _PUNCTUATION:
            self.at += 1
        if self.at == start:
            raise self.fail(f"expected a key, found {self.text[start]!r}")
        return self.text[start : self.at]

    def quoted(self) -> str:
        start, quote = self.at, self.text[self.at]
        self.at += 1
        parts: list[str] = []
        while True:
            if self.at >= len(self.text) or self.text[self.at] == "\n":
                raise self.fail("a quoted string that is not closed on its line", start)
            character = self.text[self.at]
            self.at += 1
            if character == quote:
                return "".join(parts)
            if character == "\\":
                escape = self.text[self.at : self.at + 1]
                digits = self.text[self.at + 1 : self.at + 5]
                if escape == "u" and re.fullmatch(r"[0-9a-fA-F]{4}", digits):
                    parts.append(chr(int(digits, 16)))
                    self.at += 5
                elif escape in _ESCAPES and escape:
                    parts.append(_ESCAPES[escape])
                    self.at += 1
                else:
                    raise self.fail(f"unknown escape \\{escape}")
            else:
                parts.append(character)

    def block_text(self) -> str:
        _, column = self.place(self.at)
        end = self.text.find("'''", self.at + 3)
        if end < 0:
            raise self.fail("a ''' string that is not closed")
        lines = self.text[self.at + 3 : end].split("\n")
        self.at = end + 3
        # Not part of the string: the indentation of the opening quotes, and line breaks next to the quotes.
        stripped = [lines[0], *(line[min(column - 1, len(line) - len(line.lstrip(" \t"))) :] for line in lines[1:])]
        if not stripped[0].strip():
            stripped = stripped[1:]
        return "\n".join(stripped[:-1] if stripped and not stripped[-1].strip() else stripped)

    def unquoted(self) -> Any:
        """A number, true, false, null, or text that runs to the end of its line."""
        start = self.at
        if self.text[start] in _PUNCTUATION:
            raise self.fail(f"expected a value, found {self.text[start]!r}")
        words = {"true": True, "false": False, "null": None}
        while True:
            character = self.text[self.at : self.at + 1]
            at_end = character in ("", "\n", "\r")
            comment = character == "#" or self.text[self.at : self.at + 2] in ("//", "/*")
            if at_end or comment or character in ",}]":
                found = self.text[start : self.at].strip()
                if found in words:
                    return words[found]
                if _NUMBER.fullmatch(found):
                    number = float(found) if set(found) & set(".eE") else int(found)
                    # As in the library: 5e8 becomes an integer, as bucket sizes must be.
                    return int(number) if math.isfinite(number) and number == int(number) else number
                if at_end:
                    return found
            self.at += 1


def read_source(text: str) -> Node:
    """Read JSON or HJSON.

    Raises:
        SourceError: the text is neither. The message gives line and column.
    """
    return _Reader(text).read()
