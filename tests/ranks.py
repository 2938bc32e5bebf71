"""Two ranks as plain processes: no launcher that would end the one when the other has ended."""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import IO

from tests.conftest import HANGS_S, ROOT, free_port

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
    """Start `python ARGUMENTS` as rank 0, which alone is given `stdin`, and as rank 1."""
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
