"""A server process of a small model, and requests to it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.builders.processes import HANGS_S, ROOT


class ServerProcess:
    """`layoutner serve` in a process of its own."""

    def __init__(self, model: Path, temporary: Path, *arguments: object) -> None:
        self.temporary = temporary  # its folder for temporary files
        self._lines: list[str] = []
        self._ready = threading.Event()
        env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
        command = [sys.executable, "-m", "layoutner", "serve", str(model), "--port", "0", "--device", "cpu"]
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=ROOT,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        assert self._ready.wait(HANGS_S)
        found = re.search(r"on (http://\S+)", self.said)
        assert found is not None, self.said
        self.address = found[1]
        self.client = httpx.Client(base_url=self.address, timeout=HANGS_S, trust_env=False)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)
            if line.startswith("serving "):
                self._ready.set()
        self._ready.set()

    @property
    def said(self) -> str:
        """What it has printed."""
        return "".join(self._lines)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def metrics(self) -> dict[str, float]:
        lines = self.client.get("/metrics").text.splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; returns the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(HANGS_S)
        self._reading.join(HANGS_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.client.close()
        return code


@contextmanager
def serving(model: Path, temporary: Path, *arguments: object) -> Iterator[ServerProcess]:
    """A server that is stopped at the end, whatever has happened."""
    temporary.mkdir(exist_ok=True)
    server = ServerProcess(model, temporary, *arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.wait()


def error_of(response: httpx.Response) -> str:
    """The one sentence of an error, which names no file of the server and no line of its code."""
    tree: Any = json.loads(response.text)
    assert list(tree) == ["error"]
    text = str(tree["error"])
    assert text
    assert "\n" not in text
    assert not re.search(r"Traceback|/tmp/|site-packages|layoutner-serve", text), text
    return text
