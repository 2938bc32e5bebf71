"""Predict the time of an optimizer step on any number of ranks, from the time of one window on one rank."""

import math
import re
from dataclasses import dataclass

from layoutner.errors import SettingsError
from layoutner.planning.batch_plan import BatchPlan
from layoutner.planning.memory import BYTES, Network

RATES = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Measurement:
    """Seconds on one rank; from `runs.measurement.measure`."""

    window: float  # forward and backward of a full window, in micro-batches of the planned size
    update: float  # of all parameters by the optimizer, in fp32
    device: str = "cpu"  # that was measured


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

    With P bytes of trained parameters on N ranks, A micro-batches a step and rings, a rank sends, and receives,
    (N-1)/N P times: 2 at stage 0, an all_reduce; 3 at stage 1, where weights are gathered after the update; 2 A + 1 at
    stage 2, where the gradient of each micro-batch is reduced; 3 A at stage 3, where weights are gathered for each
    forward and each backward, and gradients reduced and scattered. Stages 1 and 2 are DeepSpeed's: it reduces by
    all_reduce (`use_multi_rank_bucket_allreduce`), not by the reduce_scatter of Rajbhandari et al. 2020
    (arXiv:1910.02054, section 7). Stage 3 gathers less for networks smaller than `stage3_max_reuse_distance`.

    Args:
        measured: of a rank that shares its machine with as many others as it will.
        link: bytes a second that a rank sends, and receives at the same time.
    """
    ranks, accumulation = batch.world_size, batch.accumulation
    passes = {0: 2, 1: 3, 2: 2 * accumulation + 1, 3: 3 * accumulation}[stage]
    sent = passes * (ranks - 1) / ranks * network.trainable * BYTES[dtype]
    return StepTime(
        computing=measured.window * math.ceil(batch.global_batch_size / ranks),
        communication=sent / link,
        update=measured.update / (ranks if stage else 1),
    )


def parse_rate(text: str) -> float:
    """Parse "25GB", "400G" or "900MB" to bytes a second. All units are powers of 1000, as usual for networks.

    Raises:
        SettingsError: anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])B?(?:/s)?\s*", text, re.IGNORECASE)
    rate = float(match[1]) * RATES[match[2].upper()] if match else 0.0
    if not rate:
        raise SettingsError(f"--link {text!r} is no rate: give bytes a second with their unit, as in 25GB or 900MB")
    return rate
