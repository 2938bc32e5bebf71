"""The exponential moving average of the weights, which optimizer.average_decay turns on."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from layoutner.engine.partitions import Partitions


def decay_at(updates: int, decay: float) -> float:
    """The decay of an update: min(decay, (1 + t) / (10 + t)), where t counts the updates up to this one.

    This is the warm-up of TensorFlow's `tf.train.ExponentialMovingAverage(num_updates=t)`. With a constant decay d the
    initial weights would keep a share of d^t, so most of a short run's average would be its untrained head.
    """
    return min(decay, (1 + updates) / (10 + updates))


@torch.no_grad()
def add_to_average(averages: list[Tensor], weights: list[Tensor], decay: float) -> None:
    """average = decay x average + (1 - decay) x weights, in place."""
    torch._foreach_lerp_(averages, weights, 1 - decay)


class WeightAverage:
    """An fp32 average of every trained parameter. It is part of the optimizer's state, and partitioned as moments are.

    ZeRO's padding is averaged, too. It may be anything, but no average of a weight depends on it.
    """

    def __init__(self, partitions: "Partitions", decay: float) -> None:
        """Start the average at the current weights."""
        self._partitions, self._decay = partitions, decay
        self.updates = 0  # of the weights since the start of training; skipped steps are not counted
        partitions.fill()

    @torch.no_grad()
    def start(self) -> None:
        """Start the average again, at the current weights."""
        for average, weights in self._partitions.averages():
            average.copy_(weights)

    def update(self) -> None:
        """Average the weights that the optimizer has just updated."""
        self.updates += 1
        averages, weights = zip(*self._partitions.averages(), strict=True)
        add_to_average(list(averages), list(weights), decay_at(self.updates, self._decay))
