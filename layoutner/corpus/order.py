"""The random order of an epoch, computed entry by entry: no list of all windows, and no state."""

import hashlib
import math

import numpy as np

from layoutner.files.arrays import Array

ORDER = "feistel"  # name of this order in checkpoints: a run that goes on needs the same one
ROUNDS = 6  # each mixes both numbers
# The finaliser of splitmix64 (Steele, Lea and Flood 2014): it mixes 64 bits.
MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def permuted(places: Array, count: int, key: str) -> Array:
    """Entries of a random permutation of 0..count-1.

    A Feistel network over two numbers below a and b, with a x b a little above `count`, permutes 0..ab-1; entries that
    are `count` or more are permuted again until they are not (cycle walking; Black and Rogaway 2002). It depends on
    `count` and `key` alone, not on the release of Python or NumPy.

    Args:
        places: which entries, each from 0 to count - 1.
        key: another key gives another permutation.
    """
    a = math.isqrt(count - 1) + 1
    b = -(-count // a)
    keys = [
        np.uint64(int.from_bytes(hashlib.sha256(f"{key}/{number}".encode()).digest()[:8], "little"))
        for number in range(2 * ROUNDS)
    ]
    entries = np.asarray(places, np.uint64)
    outside = np.ones(len(entries), bool)
    while outside.any():
        left, right = np.divmod(entries[outside], np.uint64(b))
        for one, other in zip(keys[::2], keys[1::2], strict=True):
            left = (left + _mixed(right + one)) % np.uint64(a)
            right = (right + _mixed(left + other)) % np.uint64(b)
        entries[outside] = left * np.uint64(b) + right
        outside = entries >= count
    return entries.astype(np.int64)


def _mixed(values: Array) -> Array:
    for shift, multiplier in zip((np.uint64(30), np.uint64(27)), MULTIPLIERS, strict=True):
        values = (values ^ (values >> shift)) * multiplier
    # Half of the bits: a sum of two such numbers must not wrap around, which would favour small remainders.
    return values >> np.uint64(33)
