"""The order of an epoch: a permutation, computed entry by entry."""

import math
from collections import Counter

import numpy as np
import pytest

from layoutner.corpus.order import permuted


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 1000, 99_991])
def test_every_entry_comes_once(count: int) -> None:
    whole = permuted(np.arange(count), count, "42/0")
    assert sorted(whole.tolist()) == list(range(count))
    places = np.random.default_rng(0).integers(0, count, 50)
    assert permuted(places, count, "42/0").tolist() == whole[places].tolist()  # whatever else is asked for


@pytest.mark.parametrize("count", [3, *(pytest.param(count, marks=pytest.mark.slow) for count in (2, 4, 5))])
def test_all_orders_of_few_are_equally_frequent(count: int) -> None:
    draws, orders = 6000, math.factorial(count)
    found = Counter(tuple(permuted(np.arange(count), count, f"{seed}/0").tolist()) for seed in range(draws))
    expected = draws / orders
    chi_squared = sum((found[order] - expected) ** 2 / expected for order in found) + (orders - len(found)) * expected
    freedom = orders - 1
    assert chi_squared < freedom + 4 * math.sqrt(2 * freedom)  # four standard deviations


def test_entries_of_many_are_spread_evenly_and_independently() -> None:
    count = 100_003
    one, other = (permuted(np.arange(count), count, key) for key in ("42/0", "42/1"))
    # Rank correlation of the order with the places, of two keys, and of neighbours: standard deviation 1 / sqrt(count).
    for first, second in ((np.arange(count), one), (one, other), (one[:-1], one[1:])):
        assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(count)
    assert abs(np.count_nonzero(one == np.arange(count)) - 1) < 6  # a random order keeps one in its place on average


def test_a_place_in_ten_billion_needs_no_list() -> None:
    count = 10_000_000_000
    found = permuted(np.array([0, count - 1]), count, "42/0").tolist()
    assert found == [607362074, 8491153648]
