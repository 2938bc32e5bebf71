"""Work ahead of its use: the order of the values, errors, and how far ahead."""

import threading
from collections.abc import Iterator

import pytest
import torch

from layoutner.corpus.prefetch import prefetched


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_values_come_in_the_order_of_their_keys(threads: int) -> None:
    first_waits = threading.Event()

    def work(key: int) -> int:
        if key == 0 and threads > 1:
            assert first_waits.wait(60)  # so the second is done before it
        first_waits.set()
        return key * key

    assert list(prefetched(work, range(100), threads)) == [key * key for key in range(100)]
    assert list(prefetched(work, [], threads)) == []


def test_no_more_than_two_values_a_thread_are_made_ahead() -> None:
    taken: list[int] = []

    def keys() -> Iterator[int]:
        for key in range(50):
            taken.append(key)
            yield key

    values = prefetched(lambda key: key, keys(), 2)
    for number in range(40):
        assert next(values) == number
        assert len(taken) == number + 5
    values.close()
    assert len(taken) == 44


def test_an_error_is_raised_where_its_value_would_be() -> None:
    def work(key: int) -> int:
        if key == 3:
            raise KeyError("no page 3")
        return key

    values = prefetched(work, range(6), 4)
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="no page 3"):
        next(values)


def test_the_work_takes_one_cpu_and_leaves_those_of_the_caller() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert set(prefetched(lambda _: torch.get_num_threads(), range(9), 3)) == {1}
        assert torch.get_num_threads() == 2
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [2]
    finally:
        torch.set_num_threads(before)
