"""What a command shows while it works: bars and panels on a terminal, lines with their times elsewhere.

Only the first rank shows how far it is. The results of a command are not its concern: commands print them.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import IO, Any, TextIO

from layoutner.files.text import printable
from layoutner.progress import Task, show_with
from layoutner.tracking.run_log import TimedLines

SILENCE_S = 30.0  # after so long without a line, a line says how far the newest task is
FRAMES_PER_S = 4
NAME, NOTE = 40, 100  # largest number of characters of a task's name and note

logger = logging.getLogger("layoutner")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --quiet and --verbose."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--quiet", action="store_true", help="show warnings and errors only")
    either.add_argument("--verbose", action="store_true", help="also show debug messages, and those of DeepSpeed")


def passed_on(options: argparse.Namespace) -> list[str]:
    """The options of `add_options` that are given, for a command that this one starts."""
    return [f"--{name}" for name in ("quiet", "verbose") if getattr(options, name)]


def is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal on which a line can be drawn again."""
    return stream is not None and not stream.closed and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def showing(
    options: argparse.Namespace, stream: TextIO, is_rank_zero: bool = True, bars: bool = True
) -> Iterator[None]:
    """Show the messages of layoutner, and how far its tasks are.

    Args:
        options: has quiet and verbose; see `add_options`.
        stream: to show them on.
        is_rank_zero: whether this is the first rank. The others show warnings and errors only.
        bars: whether nothing else is written to the terminal meanwhile.
    """
    shows = is_rank_zero and not options.quiet
    handler = Bars(stream) if shows and bars and is_terminal(stream) else Lines(stream)
    level = logger.level
    logger.setLevel(logging.WARNING if not shows else logging.DEBUG if options.verbose else logging.INFO)
    logging.getLogger().addHandler(handler)
    try:
        with show_with(handler) if shows else nullcontext():
            yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
        logger.setLevel(level)


class _Stream:
    """A stream whose reader may go away: then the rest of what is written to it is discarded, and work goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, if somebody reads."""
        try:
            return self._stream.write(text)
        except OSError:
            self._discard()
        return len(text)

    def flush(self) -> None:
        """Flush, if somebody reads."""
        try:
            self._stream.flush()
        except OSError:
            self._discard()

    def _discard(self) -> None:
        """Let the stream write to nowhere, so that Python's own flush at the end does not fail either."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Lines(logging.StreamHandler[Any]):
    """Messages as lines with their times; of a long task, a line now and then."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(_Stream(stream))
        self.setFormatter(TimedLines())
        self._said = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        self._said = time.monotonic()
        super().emit(record)

    def begin(self, task: Task) -> None:
        """Nothing is said of a task that takes less than SILENCE_S."""

    def advance(self, task: Task) -> None:
        """Say how far the task is, if nothing else has been said for long."""
        if time.monotonic() - self._said >= SILENCE_S and task.seconds >= SILENCE_S:
            logger.info("%s", task)

    def end(self, task: Task) -> None:
        """Its results say that it has ended."""


class Bars(logging.Handler):
    """Messages, with a bar for each running task below them. Between tasks nothing is drawn."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._console = _console(stream)
        self._tasks: list[Task] = []  # replaced and never changed, as another thread draws it
        self._live: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message; the plan and the end of a run in a frame."""
        from rich.panel import Panel
        from rich.text import Text

        try:
            text = Text(printable(self.format(record)), style="yellow" if record.levelno >= logging.WARNING else "")
            panel = getattr(record, "panel", None)
            if panel is None:
                self._console.print(text, soft_wrap=True)
            else:
                self._console.print(Panel(text, title=panel, title_align="left", expand=False))
        except Exception:
            self.handleError(record)

    def begin(self, task: Task) -> None:
        """Draw it."""
        self._tasks = [*self._tasks, task]
        if self._live is None:
            self._live = live(self._console, self._table, leaves=False)
            self._live.start()

    def advance(self, task: Task) -> None:
        """It is drawn anew a few times a second anyway."""

    def end(self, task: Task) -> None:
        """Draw it no more."""
        self._tasks = [other for other in self._tasks if other is not task]
        if not self._tasks:
            self._stop()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def close(self) -> None:
        """Remove what is drawn."""
        self._tasks = []
        self._stop()
        super().close()

    def _table(self) -> Any:
        """A row for each task: its name and bar, how far it is and what is left; below it, the note of the newest."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        def cell(text: str, longest: int = NAME) -> Text:
            return Text(printable(text)[:longest], no_wrap=True, overflow="ellipsis")

        table = Table.grid(padding=(0, 1))
        for task in self._tasks:
            bar = ProgressBar(task.total, task.done, width=max(5, min(30, self._console.width - 60)))
            table.add_row(cell(task.what), bar, cell(task.count), cell(task.left))
        notes = [Text("  ").append(cell(task.note, NOTE)) for task in self._tasks if task.note]
        for note in notes:
            note.no_wrap, note.overflow = True, "ellipsis"
        return Group(table, *notes)


def _console(stream: TextIO) -> Any:
    """A rich console that reads no markup in texts, and leaves the cursor visible.

    rich hides it while it draws. A process that is killed could not show it again.
    """
    from rich.console import Console

    class Visible(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False

    file: IO[str] = _Stream(stream)  # type: ignore[assignment]
    return Visible(file=file, force_terminal=True, markup=False, highlight=False, emoji=False)


def live(console: Any, draw: Callable[[], Any], leaves: bool) -> Any:
    """What is drawn again and again; what others print appears above it.

    Args:
        leaves: whether the last drawing stays.
    """
    from rich.live import Live

    return Live(
        console=console,
        get_renderable=draw,
        refresh_per_second=FRAMES_PER_S,
        transient=not leaves,
        redirect_stdout=is_terminal(sys.stdout),
        redirect_stderr=is_terminal(sys.stderr),
    )


@contextmanager
def redrawn(stream: TextIO) -> Iterator[Callable[[str], None]]:
    """A function that shows a text in the place of the one before it: on a terminal. Elsewhere it prints a new text."""
    if not is_terminal(stream):

        def say(text: str) -> None:
            print(printable(text), file=stream, flush=True)

        yield say
        return
    from rich.text import Text

    shown = Text()
    with live(_console(stream), lambda: shown, leaves=True) as display:

        def draw(text: str) -> None:
            nonlocal shown
            shown = Text(printable(text))
            display.refresh()

        yield draw
