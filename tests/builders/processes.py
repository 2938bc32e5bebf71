"""Commands in this process, and in one of their own."""

import contextlib
import itertools
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HANGS_S = 900.0  # what takes longer hangs, on however slow or busy a machine; no test waits for it to pass


WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PORTS = range(10_000 + 2_000 * WORKER, 12_000 + 2_000 * WORKER)  # below those that the system deals out by itself
_ports = itertools.cycle([*PORTS[os.getpid() % 2_000 :], *PORTS[: os.getpid() % 2_000]])


def free_port() -> int:
    """A port that nothing listens on now, that no other worker of pytest-xdist takes, and that is not 29500."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError


def untimed(text: str) -> str:
    """What a command has printed, without the times at the beginning of log lines."""
    return re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ?", "", text, flags=re.MULTILINE)


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
