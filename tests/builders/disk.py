"""A disk with no room left."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def small_files(largest: int) -> Iterator[None]:
    """No file of this process grows past that many bytes: as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
