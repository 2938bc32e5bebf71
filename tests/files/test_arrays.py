"""Arrays in a file: what is written is read, and what is cut off is refused."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from layoutner.files.arrays import MappedArrays, allow_open_files, write_arrays

ARRAYS = {
    "ids": np.arange(70_000, dtype=np.int32),
    "boxes": np.arange(12, dtype=np.uint16).reshape(3, 4),
    "none": np.zeros((0, 4), np.uint16),
    "hashes": np.array([2**64 - 1, 0], np.uint64),
    "known": np.array([True, False]),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_arrays(tmp_path / "arrays.safetensors", ARRAYS)
    return tmp_path / "arrays.safetensors"


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    return (found.dtype, found.shape, found.tolist()) == (expected.dtype, expected.shape, expected.tolist())


def test_arrays_are_mapped_as_they_were_written(file: Path) -> None:
    mapped = MappedArrays(file)
    assert set(mapped) == set(ARRAYS)
    for name, expected in ARRAYS.items():
        assert same(mapped[name], expected)
        assert not (mapped[name].flags.writeable and len(expected))
    before = mapped["ids"][::7].copy()
    mapped.release()
    assert (mapped["ids"][::7] == before).all()
    assert all(same(array, ARRAYS[name]) for name, array in load_file(file).items())  # by anybody's reader


@pytest.mark.parametrize("length", [4, 30, 200, 1000])
def test_a_file_that_is_cut_off_is_refused(length: int, file: Path) -> None:
    os.truncate(file, length)
    with pytest.raises(ValueError, match="cut off|Expecting|Unterminated"):
        MappedArrays(file)


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_more_files_may_be_opened_up_to_the_limit_of_the_system(limits: tuple[int, int]) -> None:
    hard = limits[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    allow_open_files(10)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, hard)
    allow_open_files(100)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (356, hard)
    if hard != resource.RLIM_INFINITY:
        allow_open_files(hard)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
