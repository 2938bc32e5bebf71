"""Locks between processes: a file that one process at a time holds, and that the system frees however it ends."""

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import filelock


class Lock:
    """A lock that this process holds until `release`, or as a context."""

    def __init__(self, path: Path, timeout: float = 0.0) -> None:
        """Take the lock. The file is made, and stays.

        Args:
            timeout: seconds to wait for another process.

        Raises:
            TimeoutError: another process holds it.
            OSError: its file cannot be written.
        """
        self.path = path
        # Not of a thread: a run may end in another one than it began in. Without locks we go on, see `keeps_out`: a
        # marker in their place would outlive a killed process.
        self._lock = filelock.FileLock(path, thread_local=False, fallback_to_soft=False)
        path.open("ab").close()  # so that what fails from here on is the locking
        self.keeps_out = True  # whether it keeps others out: a file system may have no locks
        try:
            self._lock.acquire(timeout)
        except TimeoutError:
            raise
        except OSError:
            self.keeps_out = False
        self._stat = path.stat()

    def is_in_place(self) -> bool:
        """Whether its file still stands at its path: a folder of the same name may have taken the place of its own."""
        with suppress(OSError):
            return os.path.samestat(self._stat, self.path.stat())
        return False

    def release(self) -> None:
        """Let others have it."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.release()
