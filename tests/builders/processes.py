"""Commands in this process, in one of their own, and on two ranks."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).parents[2]
HANGS_S = 900.0  # what takes longer hangs, on however slow or busy a machine; no test waits for it to pass


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(command: list[object], timeout: float = HANGS_S, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of this Python's environment, on the CPU."""
    tool, *arguments = map(str, command)
    path = Path(sys.executable).parent / tool
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [str(path), *arguments], capture_output=True, text=True, timeout=timeout, env=env, cwd=ROOT, check=False
    )


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """`layoutner ...` in this process, much quicker: (exit code, standard output, standard error)."""
    from layoutner.cli import main

    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


# python -c BY_RANK FOLDER ARGUMENTS OF LAYOUTNER, started in FOLDER/0 and FOLDER/1: the same paths, other files.
BY_RANK = """
import os, sys
from layoutner.cli import main
os.chdir(sys.argv[1] + "/" + os.environ["RANK"])
main(sys.argv[2:])
"""


def start(
    arguments: Sequence[object], stdin: int | IO[str] = subprocess.DEVNULL, **environment: str
) -> list[subprocess.Popen[str]]:
    """Start `python ARGUMENTS` as rank 0, which alone is given `stdin`, and as rank 1.

    No launcher is there that would end the one when the other has ended.
    """
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "DS_ACCELERATOR": "cpu"}
    shared |= {"OMP_NUM_THREADS": "1", **environment}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT, env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, text=True,
            stdin=subprocess.DEVNULL if rank else stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]  # fmt: skip


def finish(processes: Sequence[subprocess.Popen[str]], timeout: float = HANGS_S) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each."""
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]
