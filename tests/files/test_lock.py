"""A lock keeps other processes out for as long as its process holds it and lives."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from layoutner.files.lock import Lock

HOLDER = """
import os, sys, time
from pathlib import Path
from layoutner.files.lock import Lock
held = Lock(Path(sys.argv[1]))
if sys.argv[2] == "fork" and os.fork() == 0:  # as a launcher's helper that outlives it
    time.sleep(600)
print("held", os.getpid(), flush=True)
time.sleep(600)
"""


def start(path: Path, how: str = "alone") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), how], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("held")
    return process


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_process_that_is_killed_lets_go(how: str, tmp_path: Path) -> None:
    process = start(tmp_path / "lock", how)
    try:
        with pytest.raises(TimeoutError):
            Lock(tmp_path / "lock")
        process.kill()
        process.wait()
        Lock(tmp_path / "lock", timeout=10).release()  # although a child of it lives
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    held = Lock(tmp_path / "lock")
    threading.Timer(0.5, held.release).start()
    began = time.monotonic()
    with Lock(tmp_path / "lock", timeout=60) as lock:
        assert lock.keeps_out
        assert time.monotonic() - began >= 0.4
        with pytest.raises(TimeoutError):
            Lock(tmp_path / "lock", timeout=0.2)


def test_what_the_file_says_is_kept_by_those_who_fail_to_take_it(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock"):
        (tmp_path / "lock").write_text("process 7")
        with pytest.raises(TimeoutError):
            Lock(tmp_path / "lock")
        assert (tmp_path / "lock").read_text() == "process 7"
    assert (tmp_path / "lock").exists()


def test_a_lock_knows_that_its_folder_was_replaced(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with Lock(tmp_path / "run" / "lock") as lock:
        assert lock.is_in_place()
        shutil.rmtree(tmp_path / "run")
        assert not lock.is_in_place()
        (tmp_path / "run").mkdir()
        with Lock(tmp_path / "run" / "lock") as other:
            assert other.is_in_place()
            assert not lock.is_in_place()


@pytest.mark.parametrize("number", [37, 38, 95])  # ENOLCK, ENOSYS, ENOTSUP
def test_a_file_system_without_locks_keeps_nobody_out(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with Lock(tmp_path / "lock") as one, Lock(tmp_path / "lock") as two:
        assert not one.keeps_out
        assert not two.keeps_out
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]  # no marker that would outlive a killed process
    assert (tmp_path / "lock").read_bytes() == b""


def test_a_lock_that_cannot_be_written_is_no_lock(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Lock(tmp_path / "nothing" / "lock")
    (tmp_path / "lock").mkdir()
    with pytest.raises(IsADirectoryError):
        Lock(tmp_path / "lock")
