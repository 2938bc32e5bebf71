"""How far long work is. Any room reports it; nothing is shown unless somebody listens, as the command line does."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Protocol, TypeVar

T = TypeVar("T")


class Listener(Protocol):
    """Shows tasks. Several may run at once: one that began later is part of an earlier one."""

    def begin(self, task: "Task") -> None:
        """A task begins."""

    def advance(self, task: "Task") -> None:
        """A task has advanced. It is called for every item, so it must be quick."""

    def end(self, task: "Task") -> None:
        """A task has ended, or has been given up."""


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


class Task:
    """Work that takes long, in items such as pages or optimizer steps."""

    def __init__(self, what: str, total: int | None, unit: str, done: int, listener: Listener | None) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self.note = ""  # of the newest item
        self._before, self._since, self._listener = done, time.monotonic(), listener

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count more items as done."""
        if self._listener is None:
            return
        self.done += count
        self.note = note
        self._listener.advance(self)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._since

    @property
    def count(self) -> str:
        """How many items are done, such as "3 of 8 pages"."""
        of = "" if self.total is None else f" of {self.total}"
        return f"{self.done}{of} {self.unit}" if self.unit else ""

    @property
    def left(self) -> str:
        """The time that is left if it goes on like this, as "0:00:10 left"; "" if that cannot be told."""
        done = self.done - self._before
        if self.total is None or not done or self.done >= self.total:
            return ""
        return f"{timedelta(seconds=round(self.seconds / done * (self.total - self.done)))} left"

    def __str__(self) -> str:
        parts = ", ".join(part for part in (self.count, self.note, self.left) if part)
        return f"{self.what}: {parts}" if parts else self.what


@contextmanager
def task(what: str, total: int | None = None, unit: str = "", done: int = 0) -> Iterator[Task]:
    """Report work that takes long.

    Args:
        what: it is, such as "reading documents".
        total: number of items; None = not known.
        unit: of the items, in the plural; "" = there are none to count.
        done: items that were done before.
    """
    listener = _listener.get()
    begun = Task(what, total, unit, done, listener)
    if listener is None:
        yield begun
        return
    listener.begin(begun)
    try:
        yield begun
    finally:
        listener.end(begun)


def counted(items: Iterable[T], what: str, total: int | None = None, unit: str = "") -> Iterator[T]:
    """Yield the items, and report each as done when the next is asked for. The arguments are those of `task`."""
    with task(what, total, unit) as begun:
        for item in items:
            yield item
            begun.advance()


@contextmanager
def show_with(listener: Listener) -> Iterator[None]:
    """Tell the listener of all tasks that begin inside the block, in this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
