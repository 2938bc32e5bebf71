"""Named arrays in one file, which is mapped into memory: an array is read from the disk where it is looked at.

The file is of the safetensors format: a JSON header, then the arrays' bytes.
"""

import json
import math
import mmap
import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from layoutner.files.atomic import atomic_file

Array = np.ndarray[Any, Any]

DTYPES = {"U8": "<u1", "U16": "<u2", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U64": "<u8", "BOOL": "?"}


def write_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """Write the arrays as one file, as `atomic_file` does.

    Raises:
        OSError: it cannot be written.
    """
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    with atomic_file(path) as file:
        file.write(content)


def allow_open_files(count: int) -> None:
    """Raise this process's limit of open files, as far as the system lets it. A mapped file counts as an open one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256  # for all others
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


class MappedArrays(Mapping[str, Array]):
    """The arrays of a file, read-only."""

    def __init__(self, path: Path) -> None:
        """Map the file.

        Raises:
            OSError: it cannot be read.
            ValueError: it is not such a file, or incomplete.
        """
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        begin = 8 + int.from_bytes(self._map[:8], "little")
        if begin > len(self._map):
            raise ValueError("is cut off")
        # Not the arrays themselves, which take more memory: hundreds of files may be open.
        self._places: dict[str, tuple[str, tuple[int, ...], int]] = {}  # format, shape, first byte
        for name, entry in json.loads(self._map[8:begin]).items():
            if name == "__metadata__":
                continue
            start, end = entry["data_offsets"]
            if begin + end > len(self._map):
                raise ValueError("is cut off")
            self._places[sys.intern(name)] = DTYPES[entry["dtype"]], tuple(entry["shape"]), begin + start

    def __getitem__(self, name: str) -> Array:
        dtype, shape, start = self._places[name]
        return np.ndarray(shape, dtype, self._map, start) if math.prod(shape) else np.zeros(shape, dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def release(self) -> None:
        """Let go of the memory of what was looked at, which is read again from the file where it is needed again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
