"""The processes that read uploads, and the queue in front of them."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

from layoutner.serving.metrics import Metrics, resident_bytes
from layoutner.serving.reading import ReaderSettings, Reading, Upload
from layoutner.serving.refusal import Refused

CLOSES_WITHIN_S = 5.0  # a reader that is told to end; then it is killed


class Readers:
    """A fixed number of reader processes. Each reads one upload at a time."""

    def __init__(self, settings: ReaderSettings, processes: int, metrics: Metrics) -> None:
        """Start the processes; does not wait for them."""
        self._metrics = metrics
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._processes = [_Process(settings) for _ in range(processes)]
        self._threads = [
            threading.Thread(target=self._work, args=(process,), name="reader", daemon=True)
            for process in self._processes
        ]
        for thread in self._threads:
            thread.start()
        metrics.gauge("reading_queue", "Uploads that wait for a reader.", self._jobs.qsize)
        metrics.gauge(
            "readers_resident_memory_bytes",
            "Resident memory of the readers.",
            lambda: sum(process.resident_bytes() for process in self._processes),
        )

    def read(self, upload: Upload, until: float) -> "Future[Reading]":
        """Read an upload.

        Args:
            until: on the clock of `time.monotonic`; a reader that takes longer is killed.

        Returns:
            A future that raises `Refused` if the upload cannot be used.
        """
        job = _Job(upload, until, Future())
        self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """End all processes, after the uploads that they read now."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, process: "_Process") -> None:
        with suppress(OSError):  # no process can be started: the first upload tries again, and says so
            process.start()
        while (job := self._jobs.get()) is not None:
            # A request that has been answered in the meantime, because it took too long, has cancelled its job.
            if not job.future.set_running_or_notify_cancel():
                continue
            since = time.monotonic()
            try:
                answer = process.read(job.upload, job.until)
            except Refused as refused:
                self._metrics.add("reader_restarts", 1)
                answer = refused
            except Exception as error:  # no bug of this thread may end it
                job.future.set_exception(error)
                continue
            self._metrics.add("reading_seconds", time.monotonic() - since)
            if isinstance(answer, Refused):
                job.future.set_exception(answer)
            else:
                job.future.set_result(answer)
        process.close()


@dataclass(frozen=True)
class _Job:
    upload: Upload
    until: float
    future: "Future[Reading]"


class _Process:
    """A reader process, which is started again when it has ended. One thread uses it."""

    def __init__(self, settings: ReaderSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None

    def start(self) -> None:
        own, others = Pipe()
        command = [sys.executable, "-m", "layoutner.serving.reader_process", str(others.fileno())]
        # A session of its own: Ctrl+C on the terminal does not reach it, and tesseract can be killed with it.
        self._process = subprocess.Popen(
            command, pass_fds=[others.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
        )
        others.close()
        self._connection = own
        with suppress(OSError):  # it has ended already: `read` will say so
            own.send(self._settings)

    def read(self, upload: Upload, until: float) -> Reading | Refused:
        """The answer of the process.

        Raises:
            Refused: it crashed or took too long, and has been killed.
        """
        if self._process is None or self._process.poll() is not None:
            self.start()
        assert self._connection is not None, "started above"
        try:
            self._connection.send(upload)
            if not self._connection.poll(max(0.0, until - time.monotonic())):
                self.kill()
                raise Refused(504, f"{upload.path.name}: reading it takes longer than this server allows")
            answer: Reading | Refused = self._connection.recv()
        except (EOFError, OSError):
            self.kill()
            raise Refused(422, f"{upload.path.name}: cannot be read: it made its reader crash") from None
        return answer

    def resident_bytes(self) -> int:
        process = self._process
        return 0 if process is None else resident_bytes(process.pid)

    def kill(self) -> None:
        """Kill the process, with the programs that it has started."""
        assert self._process is not None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.close()

    def close(self) -> None:
        """Let the process end."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            try:
                self._process.wait(CLOSES_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = self._connection = None
