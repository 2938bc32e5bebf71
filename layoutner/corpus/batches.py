"""Batches: which windows an optimizer step uses, and how they are split into micro-batches over the ranks.

The windows of step k of an epoch depend on (seed, epoch, k) only, not on the number of ranks, the micro-batch size or
a restart. The assignment to ranks does not change the result of the step.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from layoutner.corpus.windows import IGNORED, Window
from layoutner.files.image import PageImage


def step_windows(seed: int, epoch: int, step: int, windows: int, global_batch_size: int) -> list[int]:
    """Indices of the windows of step `step` of an epoch; the last step of an epoch may have fewer."""
    return list(_epoch_order(seed, epoch, windows)[step * global_batch_size : (step + 1) * global_batch_size])


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, windows: int) -> tuple[int, ...]:
    order = list(range(windows))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)


def assign_to_ranks(
    indices: Sequence[int], lengths: Sequence[int], micro_batch_size: int, world_size: int
) -> list[list[list[int]]]:
    """Assign windows to ranks and micro-batches: result[rank][micro-batch] is a list of window indices.

    Windows are sorted by length and cut into micro-batches of similar length, which keeps padding small. The
    micro-batches are dealt to the ranks back and forth, so that the ranks have similar work. Every rank gets the same
    number of micro-batches; some are empty if there are fewer windows than micro-batches.
    """
    by_length = sorted(indices, key=lambda index: (-lengths[index], index))
    forwards = math.ceil(len(by_length) / (micro_batch_size * world_size)) * world_size
    small, larger = divmod(len(by_length), forwards)
    dealt: list[list[list[int]]] = [[] for _ in range(world_size)]
    start = 0
    for number in range(forwards):
        # The longest windows go to the smaller forwards.
        end = start + small + (number >= forwards - larger)
        turn, place = divmod(number, world_size)
        dealt[place if turn % 2 == 0 else world_size - 1 - place].append(by_length[start:end])
        start = end
    return dealt


@dataclass(frozen=True)
class Batch:
    """B windows padded to T tokens: the input of a network."""

    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    boxes_BT4: torch.Tensor  # 0..1000
    labels_BT: torch.Tensor  # label ids, IGNORED elsewhere
    images: tuple[PageImage, ...] = ()  # page images of the windows that have one; read when a network needs them


def padded(longest: int) -> int:
    """Padded length of a micro-batch whose longest window has `longest` tokens: a multiple of 8, for tensor cores."""
    return -(-longest // 8) * 8


def collate(windows: Sequence[Window], pad_token_id: int) -> Batch:
    """Pad windows to the length of the longest, rounded up by `padded`.

    Without windows the batch is one row of padding, so that a rank without work can still run the forward pass.
    """
    longest = max((window.length for window in windows), default=1)
    rows, columns = max(1, len(windows)), padded(longest)
    input_ids_BT = torch.full((rows, columns), pad_token_id)
    attention_mask_BT = torch.zeros((rows, columns), dtype=torch.long)
    boxes_BT4 = torch.zeros((rows, columns, 4), dtype=torch.long)
    labels_BT = torch.full((rows, columns), IGNORED)
    if not windows:
        attention_mask_BT[0, 0] = 1  # attention over nothing would be NaN
    for row, window in enumerate(windows):
        input_ids_BT[row, : window.length] = torch.tensor(window.input_ids)
        attention_mask_BT[row, : window.length] = 1
        boxes_BT4[row, : window.length] = torch.tensor(window.boxes)
        labels_BT[row, : window.length] = torch.tensor(window.labels)
    images = tuple(window.image for window in windows if window.image is not None)
    return Batch(input_ids_BT, attention_mask_BT, boxes_BT4, labels_BT, images)
