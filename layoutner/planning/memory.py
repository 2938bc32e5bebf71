"""Estimate the peak memory of a rank, without a GPU.

All sizes are in bytes. The formulas follow the source of DeepSpeed 0.19.8 (runtime/fp16/unfused_optimizer.py,
bf16_optimizer.py, zero/stage_1_and_2.py, zero/stage3.py); tests/planning/test_memory.py compares them with
measurements. Facts that are not obvious:

- fp32 at stages 1 to 3 keeps a second, "master" copy of the weights, although both copies are equal.
- bf16 at stage 1 with fp32 accumulation (set by `render`) uses BF16_Optimizer: full fp32 gradients on every rank.
- fp16 at stage 1 also accumulates full fp32 gradients on every rank, in the parameters' `grad_accum`.
- Stages 1 and 2 with gradient accumulation keep all low-precision gradients in addition to the rank's partition.
- Stage 3 has all weights gathered at the peak, if the network has fewer than stage3_max_live_parameters (1e9).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from layoutner.errors import SettingsError
from layoutner.planning.batch_plan import plan_batch
from layoutner.planning.optimizers import OPTIMIZERS

MiB, GiB = 2**20, 2**30
UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
BUCKET = 500_000_000  # elements; DeepSpeed's default reduce_bucket_size, and the all-reduce bucket at stage 0
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Curve:
    """A size that depends on the tokens T of a window: constant + linear T + square T^2."""

    constant: float
    linear: float
    square: float

    @classmethod
    def through(cls, tokens: Sequence[int], sizes: Sequence[float]) -> "Curve":
        """The curve through three points (Newton's divided differences)."""
        (a, b, c), (x, y, z) = tokens, sizes
        first, second = (y - x) / (b - a), (z - y) / (c - b)
        square = (second - first) / (c - a)
        linear = first - square * (a + b)
        return cls(x - linear * a - square * a**2, linear, square)

    def at(self, tokens: int) -> float:
        """The size for a window of so many tokens."""
        return self.constant + self.linear * tokens + self.square * tokens**2


@dataclass(frozen=True)
class Network:
    """The sizes of a token classifier that determine its memory; from `models.sizes.count_network`."""

    parameters: int
    trainable: int  # without what does not affect the logits
    layers: int
    intermediate_size: int
    tensors: tuple[int, ...]  # elements of each trainable tensor
    layer: Curve  # bytes that autograd keeps of a window in each layer, in the dtype of the run
    ends: Curve  # bytes that it keeps before and after the layers
    matrices: int = 0  # elements of the matrices of the layers, which Muon updates in its own way
    checkpoint: int | None = None  # elements that gradient checkpointing keeps per token and layer; None without it


@dataclass(frozen=True)
class Memory:
    """Peak memory of one rank, in bytes."""

    parameters: int
    gradients: int
    optimizer_states: int  # fp32 master weights, the optimizer's tensors and the average of the weights
    activations: int
    buffers: int  # communication buckets, gathered weights, and temporaries of the step if they determine the peak

    @property
    def model_states(self) -> int:
        """Parameters, gradients and optimizer states; they do not depend on the micro-batch size."""
        return self.parameters + self.gradients + self.optimizer_states

    @property
    def total(self) -> int:
        """The peak. Without gradient accumulation it is an upper bound: activations are freed as gradients appear."""
        return self.model_states + self.activations + self.buffers

    def __str__(self) -> str:
        parts = {name: getattr(self, name) for name in COLUMNS}
        return "\n".join(f"{name.replace('_', ' '):<17}{show(size):>12}" for name, size in parts.items())


COLUMNS = ("parameters", "gradients", "optimizer_states", "activations", "buffers", "total")


def show(size: int) -> str:
    """Format a size in GiB, or in MiB if it is below one GiB."""
    return f"{size / GiB:.2f} GiB" if size >= GiB else f"{size / MiB:.1f} MiB"


def activations(network: Network, dtype: str, micro_batch_size: int, window_tokens: int) -> int:
    """Bytes at the peak of the forward and backward pass of one micro-batch: what autograd keeps, and temporaries.

    The temporaries are those of the first operators of the backward pass: two of the intermediate size.
    """
    kept = network.layers * network.layer.at(window_tokens) + network.ends.at(window_tokens)
    if network.checkpoint is not None:  # the inputs of all layers, and the activations of the layer that runs again
        inputs = network.layers * window_tokens * network.checkpoint * BYTES[dtype]
        kept = inputs + network.layer.at(window_tokens) + network.ends.at(window_tokens)
    temporaries = window_tokens * 2 * network.intermediate_size * BYTES[dtype]
    return int(micro_batch_size * (kept + temporaries))


def estimate(
    network: Network,
    *,
    dtype: str,
    stage: int,
    world_size: int,
    micro_batch_size: int,
    window_tokens: int,
    ds_config: Mapping[str, Any],
    optimizer: str = "adamw",
    averages: bool = False,
    device: Device = "cuda",
) -> Memory:
    """Peak memory of one rank.

    Args:
        window_tokens: tokens of the longest window, padding included.
        ds_config: from `render`; its buckets, accumulation, offload and persistence threshold are used.
        optimizer: optimizer.name.
        averages: whether optimizer.average_decay is on.
    """
    zero = ds_config.get("zero_optimization", {})
    accumulates = ds_config.get("gradient_accumulation_steps", 1) > 1
    item, whole = BYTES[dtype], network.trainable
    share = -(-whole // world_size)  # elements of a rank's partition
    frozen = (network.parameters - whole) * item
    held = activations(network, dtype, micro_batch_size, window_tokens)
    offloads = device != "cpu" and stage > 0 and bool(zero.get("offload_optimizer"))
    bucket = min(int(zero.get("reduce_bucket_size", BUCKET)), BUCKET) * item
    state_size = OPTIMIZERS[optimizer].state_size
    states = 4 * (state_size(share, network.matrices // world_size) + (1 + averages) * share)
    parameters, backward, step = whole * item + frozen, 0, 0
    if stage == 0:
        gradients = whole * item
        states = 4 * (state_size(whole, network.matrices) + ((dtype != "fp32") + averages) * whole)
        step = whole * (4 if dtype != "fp32" else 0) + (min(whole, BUCKET) * item if world_size > 1 else 0)
    elif stage == 1 and dtype == "bf16":
        gradients, step = whole * (item + 4), min(whole, BUCKET) * item
    elif stage == 1 and dtype == "fp16":
        gradients = whole * (4 + (item if accumulates else 0))
        backward, step = 2 * bucket, 4 * share
    elif stage in (1, 2):
        gradients = 4 * share + (whole * item if accumulates else 0)
        backward = bucket * (2 if zero.get("overlap_comm", False) else 1)
        step = 4 * share
    else:
        threshold = int(zero.get("stage3_param_persistence_threshold", 100_000))
        persistent = sum(size for size in network.tensors if size <= threshold) if world_size > 1 else 0
        parameters = (share + persistent) * item + -(-frozen // world_size)
        gradients = 4 * share
        live = min(whole, int(zero.get("stage3_max_live_parameters", 1_000_000_000)))
        gathered = (live - persistent) * item if world_size > 1 else 0
        backward, step = bucket + gathered, bucket + 4 * share
        if device != "cpu" and zero.get("offload_param"):
            parameters = persistent * item
    if OPTIMIZERS[optimizer].deepspeed is None:
        step += 4 * (max(network.tensors) if stage == 0 else share)  # the update, before it is added to the weights
    if offloads:
        gradients, states, step = gradients - 4 * share if stage > 1 else gradients, 0, 0
    buffers = max(backward, step - held)
    return Memory(parameters, gradients, states, held, max(0, buffers))


def largest_micro_batch(
    network: Network,
    *,
    dtype: str,
    stage: int,
    world_size: int,
    window_tokens: int,
    global_batch_size: int,
    ds_config: Mapping[str, Any],
    limit: int,
    optimizer: str = "adamw",
    averages: bool = False,
    device: Device = "cuda",
) -> int | None:
    """The largest micro-batch size of any split of the global batch whose peak is at most `limit` bytes; else None."""
    micro = global_batch_size
    while micro > 0:
        batch = plan_batch(global_batch_size, micro, world_size)
        need = estimate(
            network,
            dtype=dtype,
            stage=stage,
            world_size=world_size,
            micro_batch_size=batch.micro_batch_size,
            window_tokens=window_tokens,
            ds_config={**ds_config, "gradient_accumulation_steps": batch.accumulation},
            optimizer=optimizer,
            averages=averages,
            device=device,
        )
        if need.total <= limit:
            return batch.micro_batch_size
        micro = batch.micro_batch_size - 1
    return None


def parse_memory(text: str) -> int:
    """Parse "24GiB", "24GB", "40G" or "800MiB" to bytes. All units are powers of 1024, as usual for GPU memory.

    Raises:
        SettingsError: anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    size = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise SettingsError(f"{text!r} is not a memory size: give number and unit, as in 24GiB, 24GB, 40G or 800MiB")
    return size
