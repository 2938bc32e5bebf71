"""A disk with no room left."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

# -c SMALL_FILES BYTES ARGUMENTS OF LAYOUTNER
SMALL_FILES = """
import sys
from layoutner.cli import main
from tests.builders.disk import small_files
with small_files(int(sys.argv[1])):
    main(sys.argv[2:])
"""


@contextmanager
def small_files(largest: int) -> Iterator[None]:
    """No file of this process grows past that many bytes: as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
