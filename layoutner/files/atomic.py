"""Files and folders that appear under their names only when they are whole and durable.

A file is written under a hidden temporary name in the folder where it belongs, and renamed at its end. So nobody ever
reads half a file, and what stood there before stays as it was if writing fails.

Durable means: every file is synced to the disk (fsync) before the rename, and so is every folder whose names are new;
the folder that holds the name is synced after the rename. So after a power failure there is the old content or the new
one, and the new one once the writer has gone on.
"""

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

PARTIAL = ".partial"  # the ending of temporary names
REMOVED = ".removed"  # and of what is being removed


class AtomicFile:
    """A file that is being written; `commit` gives it its name. For where `atomic_file` does not fit in one block."""

    def __init__(self, path: Path, shared: bool = False) -> None:
        """Begin. The folder must exist.

        Args:
            shared: other processes may write the same file at the same time. Each has a temporary name of its own then.
                Otherwise what a killed process left under the temporary name is written over.

        Raises:
            OSError: the file cannot be written.
        """
        self._path = path
        self._partial = _partial(path, shared)
        self.file: IO[bytes] = self._partial.open("xb") if shared else self._partial.open("wb")

    def commit(self) -> None:
        """Give the file its name, in place of what stands there.

        Raises:
            OSError: it cannot be written; nothing is left of it.
        """
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            self._partial.rename(self._path)
        except BaseException:
            self.discard()
            raise
        _sync(self._path.parent)

    def discard(self) -> None:
        """Leave nothing of what has no name yet; otherwise nothing happens."""
        with suppress(OSError):  # what a full disk did not take is tried once more
            self.file.close()
        with suppress(OSError):
            self._partial.unlink()


@contextmanager
def atomic_file(path: Path, shared: bool = False) -> Iterator[IO[bytes]]:
    """A file to write to, which gets its name at the end of the block; after an exception nothing is left of it.

    Args:
        path: its folder must exist.
        shared: see `AtomicFile`.

    Raises:
        OSError: it cannot be written.
    """
    writing = AtomicFile(path, shared)
    try:
        yield writing.file
    except BaseException:
        writing.discard()
        raise
    writing.commit()


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """An empty folder to write into, which gets its name at the end of the block; after an exception it is removed.

    Folders above it are made. What a killed process left under the temporary name is removed.

    Args:
        path: an empty folder gives way.
        replace: so does any other folder.

    Raises:
        OSError: it cannot be written, or something is in the way.
    """
    partial = _partial(path)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        for folder, _, files in os.walk(partial, topdown=False):
            for name in files:
                _sync(Path(folder, name))
            _sync(Path(folder))
        if replace:
            shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file, as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, which goes as a whole: a kill leaves no half of it under its name.

    Raises:
        OSError: it cannot be removed.
    """
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        gone = path.with_name(f".{path.name}{REMOVED}")
        shutil.rmtree(gone, ignore_errors=True)
        shutil.rmtree(path.rename(gone))


def remove_leftovers(folder: Path, names: str, older_than_s: float = 0.0) -> None:
    """Remove what killed processes left under temporary names.

    Args:
        names: of the files and folders that were written, or being removed; a pattern such as "step-*".
        older_than_s: seconds since they were last written to.
    """
    for ending in (PARTIAL, REMOVED):
        for left in folder.glob(f".{names}{ending}"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime >= older_than_s:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()


def _partial(path: Path, shared: bool = False) -> Path:
    own = f".{uuid.uuid4().hex[:8]}" if shared else ""
    return path.with_name(f".{path.name}{own}{PARTIAL}")


def _sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems sync files, but no folders.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)
