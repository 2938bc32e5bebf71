"""Processes that read pages, each watched: one that dies or hangs costs its page, and nothing else.

pdfium and the libraries of images and OCR read files of unknown origin, so a damaged file may end the process.
"""

import os
import signal
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, TypeVar

from layoutner.errors import DataError, LayoutnerError

LONGEST_TASK_S = 420.0  # more than an OCR engine may take
STARTING_S = 120.0
AHEAD = 64  # tasks per process that may be done before an earlier one is

Given = TypeVar("Given")
Made = TypeVar("Made")


class Lost(NamedTuple):
    """The answer to a task of which nothing came."""

    why: str


class Workers(Generic[Given, Made]):
    """Processes that do tasks. A context manager, which ends them and all that they have started."""

    def __init__(self, count: int, open_work: Callable[..., Callable[[Given], Made]], *arguments: Any) -> None:
        """
        Args:
            count: of processes; each is started when it is first needed.
            open_work: makes the function that does a task, in each process; it and its arguments must be picklable.
        """
        self._count, self._open, self._arguments = count, open_work, arguments
        self._workers: list[_Worker] = []
        self._folder = tempfile.TemporaryDirectory(prefix="layoutner-", ignore_cleanup_errors=True)

    def __enter__(self) -> "Workers[Given, Made]":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()
        self._folder.cleanup()

    def run(self, tasks: Sequence[Given]) -> Iterator[Made | Lost]:
        """The answers, in the order of the tasks, whatever the number of processes.

        Raises:
            LayoutnerError: a task has raised it.
            RuntimeError: a task has raised something else, which is a bug.
        """
        answers: dict[int, Made | Lost] = {}
        waiting = deque(range(len(tasks)))
        for next_ in range(len(tasks)):
            while next_ not in answers:
                self._give(tasks, waiting, next_ + AHEAD * self._count)
                answers.update(self._collect())
            yield answers.pop(next_)

    def _give(self, tasks: Sequence[Given], waiting: deque[int], end: int) -> None:
        while waiting and waiting[0] < end:
            idle = next((worker for worker in self._workers if worker.task is None), None)
            if idle is None:
                if len(self._workers) == self._count:
                    return
                idle = _Worker(self._folder.name, self._count > 1, self._open, self._arguments)
                self._workers.append(idle)
            idle.give(waiting[0], tasks[waiting[0]])
            waiting.popleft()

    def _collect(self) -> dict[int, Any]:
        """Wait until a process has answered, has died, or has taken too long."""
        busy = {worker.pipe: worker for worker in self._workers if worker.task is not None}
        left = min(worker.deadline for worker in busy.values()) - time.monotonic()
        ready = wait(list(busy), max(0.0, left))
        answers = {}
        for pipe, worker in busy.items():
            if pipe in ready:
                task, answer = worker.task, worker.receive()
            elif time.monotonic() >= worker.deadline:
                task, answer = worker.task, Lost(f"reading it took more than {LONGEST_TASK_S:g} s, and was stopped")
            else:
                continue
            assert task is not None, "it is busy"
            answers[task] = answer
            if isinstance(answer, Lost):
                worker.kill()
                self._workers.remove(worker)
        return answers


class _Worker:
    """A process, its pipe, and the task that it has."""

    def __init__(self, folder: str, several: bool, open_work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        # A new interpreter: a copy of this one could hold a lock of one of its threads forever.
        context = get_context("spawn")
        self.pipe, other = context.Pipe()
        self.task: int | None = None
        self.deadline = 0.0
        self._process = context.Process(
            target=_work, args=(other, folder, several, open_work, arguments), daemon=True, name="layoutner-page"
        )
        self._process.start()
        other.close()
        try:
            if self.pipe.poll(STARTING_S) and self.pipe.recv() == "ready":
                return
        except (EOFError, OSError):
            pass
        self.kill()
        raise DataError("a process that reads pages cannot be started: see above, or free memory")

    def give(self, number: int, task: Any) -> None:
        """Have it do a task."""
        self.task, self.deadline = number, time.monotonic() + LONGEST_TASK_S
        with suppress(OSError):  # it is dead, which `receive` reports
            self.pipe.send(task)

    def receive(self) -> Any:
        """The answer; Lost if it has died."""
        self.task = None
        try:
            kind, answer = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            return Lost(f"the process that read it has died ({_cause(self._process.exitcode)})")
        if kind == "raise":
            raise answer
        return answer

    def kill(self) -> None:
        """End it, and what it has started, such as tesseract."""
        with suppress(OSError):
            if self._process.pid is not None and os.getpgid(self._process.pid) == self._process.pid:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _cause(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    known = {member.value: member.name for member in signal.Signals}
    return f"signal {known.get(-code, -code)}"


def _work(
    pipe: Connection, folder: str, several: bool, open_work: Callable[..., Callable[[Any], Any]], arguments: tuple[Any]
) -> None:
    """What a process does: answer tasks until the pipe is closed."""
    os.setsid()  # a group of its own: Ctrl-C reaches the parent alone, which ends the group
    tempfile.tempdir = folder
    warnings.simplefilter("ignore")  # libraries warn of what is damaged; what cannot be read is an error of its page
    if several:
        os.environ["OMP_THREAD_LIMIT"] = "1"  # see `RapidOcr` and `Tesseract`
    work = open_work(*arguments)
    pipe.send("ready")
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = ("answer", work(task))
        except MemoryError:
            answer = ("answer", Lost("there is not enough memory to read it"))
        except LayoutnerError as error:
            answer = ("raise", type(error)(str(error)))
        except Exception:
            import traceback

            answer = ("raise", RuntimeError(f"in a process that reads pages:\n{traceback.format_exc()}"))
        with suppress(OSError):
            pipe.send(answer)
