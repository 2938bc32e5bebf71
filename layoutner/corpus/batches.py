"""Batches: which windows an optimizer step uses, and how they are split into micro-batches over the ranks.

The windows of a step depend on the seed and its place in the run only (planning/ramp.py), not on the number of ranks,
the micro-batch size or a restart. The assignment to ranks does not change the result of the step.
"""

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from layoutner.corpus.order import permuted
from layoutner.corpus.windows import IGNORED, Window
from layoutner.files.arrays import Array
from layoutner.files.image import PageImage
from layoutner.planning.batch_plan import MicroBatchLimit
from layoutner.planning.ramp import Portion

# Shortest window that shares a micro-batch of padded rows, relative to its longest. At most this share is computed for
# nothing, and every micro-batch has a cost of its own.
SHORTEST = 0.9

ALIGNED = 128  # tokens of the shortest padded row that is padded to a multiple of 8


def step_windows(seed: int, epoch: int, step: int, windows: int, global_batch_size: int) -> list[int]:
    """Indices of the windows of step `step` of an epoch, if all steps take as many; the last one may have fewer."""
    start = step * global_batch_size
    return portion_windows(seed, Portion(epoch, start, min(global_batch_size, windows - start)), windows)


def portion_windows(seed: int, portion: Portion, windows: int) -> list[int]:
    """Indices of a portion of the windows of an epoch."""
    places = np.arange(portion.start, portion.start + portion.size)
    indices: list[int] = permuted(places, windows, f"{seed}/{portion.epoch}").tolist()
    return indices


def assign_to_ranks(
    indices: Sequence[int],
    lengths: Sequence[int] | Array,
    limit: MicroBatchLimit,
    world_size: int,
    packed: bool = False,
) -> list[list[list[int]]]:
    """Assign windows to ranks and micro-batches: result[rank][micro-batch] is a list of window indices.

    The micro-batches are dealt to the ranks back and forth, the largest first, so that the ranks have similar work.
    Every rank gets the same number of micro-batches; some are empty if there are fewer windows than micro-batches.

    Args:
        packed: whether the windows of a micro-batch are packed into one row. Then micro-batches are made equally large.
            Otherwise windows are padded to the longest of their micro-batch, so those of similar length share one.
    """
    by_length = sorted(indices, key=lambda index: (-lengths[index], index))
    cut = _equally_large if packed else _similarly_long
    micro_batches = cut(by_length, lengths, limit, world_size) if by_length else []
    dealt: list[list[list[int]]] = [[] for _ in range(world_size)]
    for number, micro_batch in enumerate(micro_batches):
        turn, place = divmod(number, world_size)
        dealt[place if turn % 2 == 0 else world_size - 1 - place].append(micro_batch)
    return dealt


def deal_at_random(
    indices: Sequence[int],
    lengths: Sequence[int] | Array,
    limit: MicroBatchLimit,
    world_size: int,
    packed: bool = False,
) -> list[list[list[int]]]:
    """Assign windows to ranks and micro-batches as `assign_to_ranks` does, but without regard to their lengths.

    Micro-batches are consecutive parts of `indices`, and their numbers of windows differ by at most one. So each is a
    random sample of the windows if the order of `indices` is random, as that of `step_windows` is. There are as few as
    the limit allows, but at least two with windows in them, unless there is only one window. None takes more tokens,
    with padding, than the largest of `assign_to_ranks`, so a step that fits into memory fits with either.
    """
    assigned = assign_to_ranks(indices, lengths, limit, world_size, packed)
    most = max((_row(one, lengths, packed) for of_rank in assigned for one in of_rank), default=0)
    number = max(2, math.ceil(len(indices) / limit.windows))
    while True:
        number = math.ceil(number / world_size) * world_size
        cuts = [len(indices) * place // number for place in range(number + 1)]
        micro_batches = [list(indices[start:end]) for start, end in itertools.pairwise(cuts)]
        if max((_row(one, lengths, packed) for one in micro_batches), default=0) <= most:
            return [micro_batches[rank::world_size] for rank in range(world_size)]
        number += 1


def _row(micro_batch: Sequence[int], lengths: Sequence[int] | Array, packed: bool) -> int:
    return row_tokens([int(lengths[index]) for index in micro_batch], packed)


def _equally_large(
    by_length: Sequence[int], lengths: Sequence[int] | Array, limit: MicroBatchLimit, world_size: int
) -> list[list[int]]:
    """As few micro-batches as possible, the largest first. Their numbers of windows differ by at most one.

    Their numbers of tokens are made similar: the longest window left goes to the micro-batch with the fewest tokens so
    far that still has room (longest processing time first).
    """
    tokens = sum(lengths[index] for index in by_length)
    number = max(math.ceil(len(by_length) / limit.windows), math.ceil(tokens / limit.tokens) if limit.tokens else 0)
    while True:
        number = math.ceil(number / world_size) * world_size
        micro_batches = _fill(by_length, lengths, limit, number)
        if micro_batches is not None:
            return micro_batches
        number += 1


def _fill(
    by_length: Sequence[int], lengths: Sequence[int] | Array, limit: MicroBatchLimit, number: int
) -> list[list[int]] | None:
    """This many micro-batches; None if a window does not fit into any."""
    small, larger = divmod(len(by_length), number)
    room = [small + (place < larger) for place in range(number)]
    open_ones = [(0, place) for place in range(number) if room[place]]  # a heap of (tokens, place)
    micro_batches: list[list[int]] = [[] for _ in range(number)]
    sizes = [0] * number
    for index in by_length:
        size, place = open_ones[0]
        if limit.tokens and size and size + lengths[index] > limit.tokens:
            return None
        micro_batches[place].append(index)
        sizes[place] = size + lengths[index]
        if len(micro_batches[place]) < room[place]:
            heapq.heapreplace(open_ones, (sizes[place], place))
        else:
            heapq.heappop(open_ones)
    order = sorted(range(number), key=lambda place: (-sizes[place], place))
    return [micro_batches[place] for place in order]


def _similarly_long(
    by_length: Sequence[int], lengths: Sequence[int] | Array, limit: MicroBatchLimit, world_size: int
) -> list[list[int]]:
    """Micro-batches of windows of similar length, the largest first."""
    micro_batches: list[list[int]] = []
    for index in by_length:
        if micro_batches and _joins(lengths[index], len(micro_batches[-1]), lengths[micro_batches[-1][0]], limit):
            micro_batches[-1].append(index)
        else:
            micro_batches.append([index])

    def cost(micro_batch: list[int]) -> int:
        return len(micro_batch) * padded(lengths[micro_batch[0]]) if micro_batch else 0

    # Every rank runs the same number: cut the largest in two until they do.
    while len(micro_batches) % world_size:
        largest = max(micro_batches, key=lambda one: (len(one) > 1, cost(one)))
        if len(largest) > 1:
            micro_batches.remove(largest)
            middle = len(largest) // 2
            micro_batches += [largest[:middle], largest[middle:]]
        else:
            micro_batches.append([])
    return sorted(micro_batches, key=cost, reverse=True)


def _joins(length: int, windows: int, longest: int, limit: MicroBatchLimit) -> bool:
    """Whether a window joins a micro-batch of `windows` windows, the longest of which has `longest` tokens."""
    return (
        windows < limit.windows
        and (not limit.tokens or (windows + 1) * padded(longest) <= limit.tokens)
        and length >= SHORTEST * longest
    )


@dataclass(frozen=True)
class Batch:
    """B rows of T tokens: the input of a network.

    A row is one window, padded to T tokens; or the only row holds all windows, packed one after the other.
    """

    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    positions_BT: torch.Tensor  # of a token in its window
    boxes_BT4: torch.Tensor  # 0..1000
    labels_BT: torch.Tensor  # label ids, IGNORED elsewhere
    window_lengths: tuple[int, ...]  # tokens of each window
    pad_token_id: int
    packed: bool = False
    images: tuple[PageImage, ...] = ()  # page images of the windows that have one; read when a network needs them

    def of_windows(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Cut values of all tokens, B x T x ..., into those of each window, without padding."""
        if self.packed:
            return list(torch.split(values[0, : sum(self.window_lengths)], list(self.window_lengths)))
        return [row[:length] for row, length in zip(values, self.window_lengths, strict=False)]


def padded(longest: int) -> int:
    """Length of the padded rows whose longest window has `longest` tokens: a multiple of 8 from ALIGNED tokens on.

    Tensor cores are faster with it in the T x T products of attention. These are a small part of the work on short
    rows, of which so much padding would be a larger one. Nothing else in a network needs such a number of tokens.
    """
    return longest if longest < ALIGNED else -(-longest // 8) * 8


def row_tokens(lengths: Sequence[int], packed: bool) -> int:
    """Tokens that a micro-batch of windows of these lengths computes, with its padding."""
    if packed:
        return sum(lengths)
    return len(lengths) * padded(max(lengths, default=0))


def collate(windows: Sequence[Window], pad_token_id: int, packed: bool = False) -> Batch:
    """Put windows into a batch: one padded row per window, or all packed into one row.

    A packed row has no padding; for padded rows see `padded`. Without windows the batch is one token of padding, so
    that a rank without work can still run the forward pass.
    """
    lengths = tuple(window.length for window in windows)
    rows = 1 if packed else max(1, len(windows))
    columns = (sum(lengths) if packed else padded(max(lengths, default=0))) or 1
    input_ids_BT = torch.full((rows, columns), pad_token_id)
    # In a packed row the padding is a window of its own, so no token is hidden.
    attention_mask_BT = torch.full((rows, columns), int(packed))
    positions_BT = torch.arange(columns).repeat(rows, 1)
    boxes_BT4 = torch.zeros((rows, columns, 4), dtype=torch.long)
    labels_BT = torch.full((rows, columns), IGNORED)
    if not windows:
        attention_mask_BT[0, 0] = 1  # attention over nothing would be NaN
    end = 0
    for number, window in enumerate(windows):
        row, start = (0, end) if packed else (number, 0)
        end = start + window.length
        input_ids_BT[row, start:end] = torch.tensor(window.input_ids)
        attention_mask_BT[row, start:end] = 1
        positions_BT[row, start:end] = torch.arange(window.length)
        boxes_BT4[row, start:end] = torch.tensor(window.boxes)
        labels_BT[row, start:end] = torch.tensor(window.labels)
    if packed:
        positions_BT[0, end:] = torch.arange(columns - end)
    images = tuple(window.image for window in windows if window.image is not None)
    return Batch(
        input_ids_BT, attention_mask_BT, positions_BT, boxes_BT4, labels_BT, lengths, pad_token_id, packed, images
    )


def to_device(values: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    """The values on a device; those that are no tensors unchanged. The CPU does not wait for pinned ones."""
    return {name: one.to(device, non_blocking=True) if hasattr(one, "to") else one for name, one in values.items()}
