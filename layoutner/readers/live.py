"""Lines of a stream that somebody may still be writing."""

import os
import select
import stat
import sys
from functools import lru_cache
from typing import BinaryIO

READ_BYTES = 2**16
MOST_HELD = 2**27  # bytes; a longer line counts as there before its end


class LiveLines:
    """The lines of a binary stream, and whether the next one is there already.

    A pipe, socket or terminal is read by its descriptor, so nothing else may read the stream.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._descriptor = stream, _live_descriptor(stream)
        self._held = bytearray()
        self._blank = 0  # bytes of blank lines in front
        self._searched = 0  # no line ends between the blank lines and here
        self._ended = False

    def readline(self, limit: int) -> bytes:
        """The next line with its end, but at most `limit` bytes; nothing at the end of the stream. It may wait.

        Raises:
            OSError: the stream cannot be read.
        """
        if self._descriptor is None:
            return self._stream.readline(limit)
        while not (end := self._line_end()) and len(self._held) < limit and not self._ended:
            self._read(self._descriptor)
        size = min(end or len(self._held), limit)
        line = bytes(self._held[:size])
        del self._held[:size]
        self._blank, self._searched = max(0, self._blank - size), max(0, self._searched - size)
        return line

    def has_next(self) -> bool:
        """Whether a line that is not blank, or the end of the stream, can be read without waiting.

        Raises:
            OSError: the stream cannot be read.
        """
        if self._descriptor is None:
            return True
        while not self._ended and len(self._held) < MOST_HELD:
            if end := self._held.find(b"\n", max(self._blank, self._searched)) + 1:
                if self._held[self._blank : end].strip():
                    return True
                self._blank = end
                continue
            self._searched = len(self._held)
            if not select.select([self._descriptor], [], [], 0)[0]:
                return False
            self._read(self._descriptor)
        return True

    def _line_end(self) -> int:
        """Number of bytes of the first line that is held; 0 if none is complete."""
        found = self._held.find(b"\n", 0 if self._blank else self._searched) + 1
        if not found:
            self._searched = len(self._held)
        return found

    def _read(self, descriptor: int) -> None:
        more = os.read(descriptor, READ_BYTES)
        self._ended = not more
        self._held += more


def standard_input() -> LiveLines | None:
    """The lines of standard input, the same object at every call; None if it is closed."""
    return None if sys.stdin is None else _lines_of(sys.stdin.buffer)


@lru_cache(maxsize=1)
def _lines_of(stream: BinaryIO) -> LiveLines:
    return LiveLines(stream)


def _live_descriptor(stream: BinaryIO) -> int | None:
    """The descriptor of a stream whose reader may have to wait; None for a file, and for what has no descriptor."""
    try:
        descriptor = stream.fileno()
    except OSError:
        return None
    return None if stat.S_ISREG(os.fstat(descriptor).st_mode) else descriptor
