"""Processes that are forked off one that has imported torch, transformers and DeepSpeed.

They are what a launcher starts, ranks with their own process ids and a group of their own, without the seconds that
every start of Python takes to import these. Launchers themselves, and what depends on imports, take `launch`.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import connection, forkserver
from pathlib import Path
from types import TracebackType

from tests.builders.processes import HANGS_S, ROOT, free_port, untimed

# -c BY_RANK FOLDER ARGUMENTS OF LAYOUTNER, started in FOLDER/0 and FOLDER/1: the same paths, other files.
BY_RANK = """
import os, sys
from layoutner.cli import main
os.chdir(sys.argv[1] + "/" + os.environ["RANK"])
main(sys.argv[2:])
"""
CONTEXT = multiprocessing.get_context("forkserver")
ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def _work(arguments: list[str], environment: dict[str, str], stdin: Path | None, streams: tuple[str, str]) -> None:
    """What a fork does: `layoutner ...`, a script with its arguments, or `-c CODE ARGUMENT...`."""
    for number, path in enumerate(streams, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        if os.isatty(file):  # not what Python took the stream for when the server started
            setattr(sys, ("stdout", "stderr")[number - 1], os.fdopen(number, "w", encoding="utf-8", closefd=False))
        os.close(file)
    if stdin is not None:
        os.dup2(os.open(stdin, os.O_RDONLY), 0)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    first, *rest = arguments
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first.endswith(".py"):
        sys.argv = [first, *rest]
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")
    else:
        from layoutner.cli import main

        sys.argv = [first, *rest]
        main()


class Forks:
    """The ranks of one job. As a context it ends with all of them.

    Args:
        arguments: `layoutner ...`, SCRIPT.py ..., or `-c CODE ...`.
        ranks: how many; 0 = one process that no launcher started.
        apart: every rank has standard output and error of its own.
        stdin: rank 0's standard input.
        streams: files, or a terminal, that are standard output and error of all ranks; `text` does not know them.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        ranks: int = 0,
        apart: bool = False,
        stdin: Path | None = None,
        streams: tuple[Path, Path] | None = None,
        **environment: str,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        shared = {**os.environ, **ENVIRONMENT, **environment}
        if ranks:
            shared |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self.processes: list[multiprocessing.context.ForkServerProcess] = []
        self._streams: list[tuple[str, str]] = []
        for rank in range(max(ranks, 1)):
            mark = rank if apart else ""
            self._streams.append((f"{self._folder.name}/stdout{mark}", f"{self._folder.name}/stderr{mark}"))
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks else {}
            shown = self._streams[-1] if streams is None else (str(streams[0]), str(streams[1]))
            given = (list(map(str, arguments)), {**shared, **own}, None if rank else stdin, shown)
            self.processes.append(CONTEXT.Process(target=_work, args=given, daemon=True))
        start_server()
        for process in self.processes:
            process.start()

    def text(self, rank: int = 0) -> tuple[str, str]:
        """Standard output and standard error so far, without the times of log lines."""
        out, err = (Path(path).read_text() if Path(path).exists() else "" for path in self._streams[rank])
        return untimed(out), untimed(err)

    def kill(self, rank: int, number: int = signal.SIGKILL) -> None:
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def wait(self, together: bool = True) -> list[int]:
        """Exit codes, by rank.

        Args:
            together: when a rank has failed the others are sent SIGTERM, as launchers do.
        """
        until = time.monotonic() + HANGS_S
        living = {process.sentinel: process for process in self.processes}
        while living:
            ended = connection.wait(list(living), timeout=until - time.monotonic())
            assert ended, f"{len(living)} rank(s) hang"
            for sentinel in ended:
                process = living.pop(sentinel)  # type: ignore[arg-type]
                process.join()
                if process.exitcode and together:
                    for other in living.values():
                        other.terminate()
        return [process.exitcode or 0 for process in self.processes]

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self._folder.cleanup()


def start_server() -> None:
    """Start what forks, once; what it imports looks at the environment only then."""
    if forkserver._forkserver._forkserver_pid is None:  # type: ignore[attr-defined]
        CONTEXT.set_forkserver_preload(["tests.builders.preloaded"])
        before = dict(os.environ)
        os.environ.update(ENVIRONMENT, PYTHONPATH=str(ROOT))
        interrupts = signal.getsignal(signal.SIGINT)
        try:
            forkserver.ensure_running()
        finally:
            os.environ.clear()
            os.environ.update(before)
            signal.signal(signal.SIGINT, interrupts)


def fork(
    arguments: Sequence[object], ranks: int = 0, together: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as a fork, or on that many ranks, to its end: `launch` in a tenth of the time."""
    with Forks(arguments, ranks, **environment) as forks:
        codes = forks.wait(together)
        return subprocess.CompletedProcess(arguments, next((code for code in codes if code), 0), *forks.text())


def fork_apart(arguments: Sequence[object], **environment: str) -> list[tuple[int, str, str]]:
    """Run a command on two ranks of which none ends the other: exit code, standard output and error of each."""
    with Forks(arguments, 2, apart=True, **environment) as forks:
        codes = forks.wait(together=False)
        return [(code, *forks.text(rank)) for rank, code in enumerate(codes)]
