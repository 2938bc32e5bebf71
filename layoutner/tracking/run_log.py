"""run.log: the messages of a run on rank 0, each line with its time, in the run folder."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from layoutner.files.text import printable

if TYPE_CHECKING:
    from layoutner.distributed.ranks import Ranks

LOG_FILE = "run.log"

logger = logging.getLogger("layoutner")


class TimedLines(logging.Formatter):
    """Messages of which every line begins with the time. Nothing in them controls a terminal."""

    def __init__(self) -> None:
        super().__init__("%(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """The lines of a message. The time of all is that of the message."""
        time = self.formatTime(record, self.datefmt)
        return "\n".join(f"{time} {line}".rstrip() for line in printable(super().format(record)).split("\n"))


class RunLog(logging.Handler):
    """Receives the messages of a run. They wait in memory until the run has its folder."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(TimedLines())
        self._waiting: list[str] = []
        self._file: TextIO | None = None
        self._failed = False

    def begin(self, folder: Path) -> None:
        """Write the messages so far, and from now on each at once, after those of earlier starts."""
        try:
            # A message may name a file whose name is no text.
            self._file = (folder / LOG_FILE).open("a", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            self._give_up(error)
            return
        waiting, self._waiting = self._waiting, []
        for line in waiting:
            self._write(line)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, or keep it until there is a file."""
        self._write(self.format(record))

    def _write(self, line: str) -> None:
        if self._failed:
            return
        if self._file is None:
            self._waiting.append(line)
            return
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except (OSError, ValueError) as error:  # ValueError: closed already
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """A run does not end because its log cannot be written."""
        self._failed, self._waiting = True, []
        logger.warning("warning: %s cannot be written any more: %s; the run goes on", LOG_FILE, error)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):  # said already
                self._file.close()
        super().close()


@contextmanager
def run_log(ranks: "Ranks") -> Iterator[RunLog]:
    """The log of a run, on rank 0, until the run ends; its last line says how. Other ranks write nothing."""
    handler = RunLog()
    if ranks.is_rank_zero:
        logger.addHandler(handler)
    try:
        yield handler
    except BaseException as error:
        handler.handle(
            logger.makeRecord("layoutner", logging.ERROR, "", 0, "%s: %s", (type(error).__name__, error), None)
        )
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()
