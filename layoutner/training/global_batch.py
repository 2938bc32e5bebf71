"""The global batches of the optimizer steps: which windows each takes, and this rank's micro-batches of them."""

import math
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, tee
from typing import Any

import numpy as np
import torch

from layoutner.corpus.batches import assign_to_ranks, deal_at_random, step_windows
from layoutner.corpus.prefetch import prefetched
from layoutner.corpus.windows import IGNORED
from layoutner.distributed.ranks import Ranks
from layoutner.models.dropout import MaskKeys, mask_keys
from layoutner.training.plan import Plan


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward pass takes, in the CPU's memory."""

    inputs: dict[str, Any]  # of the network
    targets: dict[str, torch.Tensor]  # "places": flat indices of the labelled tokens; "labels": theirs
    keys: MaskKeys  # of its dropout masks


@dataclass(frozen=True)
class GlobalBatch:
    """The windows of one optimizer step, the same on every rank, and this rank's micro-batches."""

    step: int  # number of optimizer steps done before
    indices: list[int]  # of its windows among the training windows
    total_weight: float  # of the labelled tokens of all ranks, see objectives/loss.py
    micro_batch_indices: list[list[int]]  # of these, the windows of each of this rank's micro-batches
    micro_batches: Iterator[MicroBatch]  # as many; they are made ahead of their use


def global_batches(plan: Plan, ranks: Ranks, first: int) -> Generator[GlobalBatch]:
    """The global batches from step `first` to the end of the schedule.

    Threads make the micro-batches ahead, also those of the next step. The seed and the number of a step determine its
    windows. The micro-batches of each must be taken before the next global batch.

    Raises:
        DataError: a page image or window cannot be read, where its micro-batch is taken.
    """
    windows, collator, seed = plan.windows["train"], plan.pretrained.collator(ranks.device), plan.settings.run.seed

    def of_step(step: int) -> tuple[int, list[int], float, list[list[int]]]:
        size = plan.batch.global_batch_size
        epoch, place = divmod(step, math.ceil(len(windows) / size))
        indices = step_windows(seed, epoch, place, len(windows), size)
        deal = deal_at_random if plan.measures_gradient(step) else assign_to_ranks
        dealt = deal(indices, windows.lengths, plan.batch.micro_batch_limit, ranks.size, plan.pretrained.packs)
        return step, indices, plan.loss.total_weight(windows, indices), dealt[ranks.rank]

    def read(key: tuple[int, list[int]]) -> MicroBatch:
        step, indices = key
        batch, inputs = collator.collate([windows[index] for index in indices])
        labels = batch.labels_BT.flatten()
        places = torch.from_numpy(np.flatnonzero(labels.numpy() != IGNORED))
        targets = collator.pin({"places": places, "labels": labels[places]})
        keys = collator.pin({"keys": mask_keys(seed, step, indices, batch)})
        return MicroBatch(inputs, targets, **keys)

    with closing(prefetched(of_step, range(first, plan.schedule.total), 1)) as of_steps:
        steps, ahead = tee(of_steps)
        own = ((step, indices) for step, _, _, dealt in ahead for indices in dealt)
        with closing(prefetched(read, own, ranks.prefetch_threads)) as micro_batches:
            for step, indices, weight, dealt in steps:
                yield GlobalBatch(step, indices, weight, dealt, islice(micro_batches, len(dealt)))
