"""The step plan: which windows, and how ranks share them."""

import itertools
import random

import pytest
import torch

from layoutner.corpus.batches import SHORTEST, assign_to_ranks, collate, deal_at_random, row_tokens, step_windows
from layoutner.corpus.windows import IGNORED, Window
from layoutner.planning.batch_plan import MicroBatchLimit


def test_an_epoch_takes_every_window_once_in_an_order_of_its_own() -> None:
    epochs = []
    for epoch in range(2):
        steps = [step_windows(42, epoch, step, 150, 16) for step in range(10)]
        assert [len(step) for step in steps] == [16] * 9 + [6]
        epochs.append([index for step in steps for index in step])
        assert sorted(epochs[-1]) == list(range(150))
    assert epochs[0] != epochs[1]
    assert step_windows(42, 0, 3, 150, 16) == epochs[0][48:64]
    assert step_windows(43, 0, 3, 150, 16) != epochs[0][48:64]


def test_the_plan_is_the_same_on_every_python() -> None:
    assert step_windows(42, 1, 0, 20, 6) == [8, 17, 10, 14, 12, 0]


@pytest.mark.parametrize("windows", [1, 2, 5, 16, 23, 64])
@pytest.mark.parametrize(("micro", "ranks"), [(1, 1), (4, 1), (2, 2), (3, 4), (8, 3)])
def test_ranks_share_a_step(windows: int, micro: int, ranks: int) -> None:
    rng = random.Random(windows)
    lengths = [rng.randrange(10, 512) for _ in range(100)]
    indices = rng.sample(range(100), windows)
    dealt = assign_to_ranks(indices, lengths, MicroBatchLimit(micro), ranks, packed=True)
    assert sorted(i for rank in dealt for forward in rank for i in forward) == sorted(indices)
    assert len({len(rank) for rank in dealt}) == 1
    assert max(len(forward) for rank in dealt for forward in rank) <= micro
    assert len(dealt[0]) == -(-windows // (micro * ranks))


def test_little_is_padded_and_ranks_are_even() -> None:
    rng = random.Random(0)
    lengths = [min(512, int(rng.lognormvariate(5.3, 0.5))) for _ in range(64)]
    dealt = assign_to_ranks(range(64), lengths, MicroBatchLimit(4), 2)
    padded = [sum(len(f) * max(lengths[i] for i in f) for f in rank) for rank in dealt]
    assert sum(padded) < 1.1 * sum(lengths)
    assert max(padded) < 1.1 * min(padded)


def window(length: int) -> Window:
    body = max(0, length - 2)
    ids = [2, *[7] * body, 3][:length]
    return Window(0, ids, [(1, 2, 3, 4)] * length, [IGNORED, *[1] * body, IGNORED][:length], [])


def test_collate_pads_to_the_longest_window() -> None:
    batch = collate([window(5), window(9)], pad_token_id=0)
    assert batch.input_ids_BT.shape == (2, 9)
    assert batch.boxes_BT4.shape == (2, 9, 4)
    assert batch.attention_mask_BT.sum(1).tolist() == [5, 9]
    assert (batch.labels_BT != IGNORED).sum().item() == 3 + 7
    assert torch.equal(batch.input_ids_BT[0, 5:], torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize(("longest", "columns"), [(1, 1), (127, 127), (128, 128), (129, 136), (512, 512)])
def test_long_rows_are_padded_to_a_multiple_of_eight(longest: int, columns: int) -> None:
    assert collate([window(9), window(longest)], pad_token_id=0).input_ids_BT.shape == (2, max(9, columns))
    assert row_tokens([9, longest], packed=False) == 2 * max(9, columns)
    assert row_tokens([9, longest], packed=True) == 9 + longest


def test_a_rank_without_windows_runs_padding_that_counts_for_nothing() -> None:
    batch = collate([], pad_token_id=1)
    assert batch.input_ids_BT.shape == (1, 1)
    assert (batch.labels_BT == IGNORED).all()
    assert batch.attention_mask_BT.sum() == 1


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("windows", [0, 1, 2, 5, 16, 23, 64])
@pytest.mark.parametrize(("micro", "tokens", "ranks"), [(8, 600, 1), (64, 1024, 2), (1, 4096, 3), (64, None, 1)])
def test_no_micro_batch_is_larger_than_allowed(
    windows: int, micro: int, tokens: int | None, ranks: int, packed: bool
) -> None:
    rng = random.Random(windows)
    lengths = [rng.randrange(10, 512) for _ in range(100)]
    indices = rng.sample(range(100), windows)
    dealt = assign_to_ranks(indices, lengths, MicroBatchLimit(micro, tokens), ranks, packed)
    assert sorted(i for rank in dealt for one in rank for i in one) == sorted(indices)
    assert len({len(rank) for rank in dealt}) == 1
    for one in (one for rank in dealt for one in rank if one):
        assert len(one) <= micro
        assert tokens is None or row_tokens([lengths[i] for i in one], packed) <= tokens
        assert packed or min(lengths[i] for i in one) >= SHORTEST * max(lengths[i] for i in one)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("windows", [1, 2, 3, 16, 23, 64])
@pytest.mark.parametrize(
    ("micro", "tokens", "ranks"), [(8, 600, 1), (64, 1024, 2), (1, 512, 3), (64, None, 1), (4, None, 3)]
)
def test_windows_dealt_at_random_keep_their_order_and_the_limits(
    windows: int, micro: int, tokens: int | None, ranks: int, packed: bool
) -> None:
    rng = random.Random(windows)
    lengths = [rng.randrange(10, 513) for _ in range(100)]
    indices = rng.sample(range(100), windows)
    dealt = deal_at_random(indices, lengths, MicroBatchLimit(micro, tokens), ranks, packed)
    assert len(dealt) == ranks
    assert len({len(rank) for rank in dealt}) == 1
    in_order = [one for turn in zip(*dealt, strict=True) for one in turn]
    assert [index for one in in_order for index in one] == indices
    sizes = [len(one) for one in in_order]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= micro
    assert sum(size > 0 for size in sizes) >= min(2, windows)
    if tokens is not None:
        assert max(row_tokens([lengths[i] for i in one], packed) for one in in_order) <= tokens
    # No more of them than are needed: with one fewer per rank, one would be too large, or there would be only one.
    fewer = len(sizes) - ranks
    cuts = [windows * place // fewer for place in range(fewer + 1)] if fewer else []
    parts = [indices[start:end] for start, end in itertools.pairwise(cuts)]
    rows = [row_tokens([lengths[i] for i in part], packed) for part in parts]
    assert fewer < 2 or max(map(len, parts)) > micro or (tokens is not None and max(rows) > tokens)


def test_windows_dealt_at_random_are_not_sorted() -> None:
    rng = random.Random(0)
    lengths = [rng.randrange(10, 512) for _ in range(5000)]
    means = []
    for step in range(70):
        indices = step_windows(42, 0, step, 5000, 64)
        for deal in (assign_to_ranks, deal_at_random):
            first, *_, last = deal(indices, lengths, MicroBatchLimit(8), 1)[0]
            means.append([sum(lengths[i] for i in one) / len(one) for one in (first, last)])
    sorted_ones, random_ones = (torch.tensor(means[start::2]).mean(0) for start in (0, 1))
    assert sorted_ones[0] > 300 + sorted_ones[1]
    assert abs(random_ones[0] - random_ones[1]) < 20  # 70 means of 8 lengths: a standard deviation of 9


def test_packed_micro_batches_are_equally_large() -> None:
    rng = random.Random(0)
    lengths = [min(512, int(rng.lognormvariate(5.3, 0.5))) for _ in range(64)]
    dealt = assign_to_ranks(range(64), lengths, MicroBatchLimit(8), 2, packed=True)
    sizes = [sum(lengths[i] for i in one) for rank in dealt for one in rank]
    assert len(sizes) == 8
    assert max(sizes) < 1.05 * min(sizes)
    assert sum(lengths) == sum(row_tokens([lengths[i] for i in one], True) for rank in dealt for one in rank)


def test_collate_packs_windows_into_one_row() -> None:
    batch = collate([window(5), window(9)], pad_token_id=0, packed=True)
    assert batch.input_ids_BT.tolist() == [[2, 7, 7, 7, 3, 2, *[7] * 7, 3]]
    assert batch.positions_BT.tolist() == [[*range(5), *range(9)]]
    assert batch.window_lengths == (5, 9)
    assert (batch.labels_BT != IGNORED).sum().item() == 3 + 7
    assert [part.tolist() for part in batch.of_windows(batch.positions_BT)] == [[*range(5)], [*range(9)]]


def test_values_of_windows_are_those_of_padded_rows_without_padding() -> None:
    batch = collate([window(5), window(9)], pad_token_id=0)
    assert [part.tolist() for part in batch.of_windows(batch.positions_BT)] == [[*range(5)], [*range(9)]]
