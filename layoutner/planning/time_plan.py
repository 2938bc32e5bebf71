"""Predict the time of an optimizer step on any number of ranks, from the time of one window on one rank."""

import math
from dataclasses import dataclass

from layoutner.planning.batch_plan import BatchPlan
from layoutner.planning.memory import BYTES, Network


@dataclass(frozen=True)
class Measurement:
    """Seconds on one rank; from `models.measurement.measure`."""

    window: float  # forward and backward of a full window, in micro-batches of the planned size
    update: float  # of all parameters by AdamW


@dataclass(frozen=True)
class StepTime:
    """Predicted seconds of one optimizer step. Nothing is taken to overlap."""

    computing: float
    communication: float
    update: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.computing + self.communication + self.update


def predict_step(
    measured: Measurement, network: Network, batch: BatchPlan, *, dtype: str, stage: int, link: float
) -> StepTime:
    """The time of a step whose windows are all full.

    A rank sends and receives (Rajbhandari et al. 2020, arXiv:1910.02054, section 7), with P bytes of trained parameters
    on N ranks, A micro-batches a step and rings: at stages 0 and 1, 2 (N-1)/N P a step; at stage 2, where the gradient
    of each micro-batch is reduced, (A+1) (N-1)/N P; at stage 3, where weights are gathered twice for each too,
    3 A (N-1)/N P.

    Args:
        measured: on a rank beside as many others on its machine as there will be.
        link: bytes a second that a rank sends, and receives at the same time.
    """
    ranks, accumulation = batch.world_size, batch.accumulation
    passes = {0: 2, 1: 2, 2: accumulation + 1, 3: 3 * accumulation}[stage]
    sent = passes * (ranks - 1) / ranks * network.trainable * BYTES[dtype]
    return StepTime(
        computing=measured.window * math.ceil(batch.global_batch_size / ranks),
        communication=sent / link,
        update=measured.update / (ranks if stage else 1),
    )
