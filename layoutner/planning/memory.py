"""What a run needs of a rank's memory, worked out before a GPU is held.

All sizes are bytes. The rules were read in DeepSpeed 0.19.8 (runtime/fp16/unfused_optimizer.py, bf16_optimizer.py,
zero/stage_1_and_2.py, zero/stage3.py) and are held to measurements by tests/planning/test_memory.py. Not obvious:

- fp32 at stages 1 to 3 keeps a second, "master" copy of the weights, although it equals the first.
- bf16 at stage 1 with fp32 accumulation (what `render` sets) is BF16_Optimizer: whole fp32 gradients on every rank.
- fp16 at stage 1 sums whole fp32 gradients on every rank too, in the parameters' `grad_accum`.
- Stages 1 and 2, with accumulation, hold a whole set of low-precision gradients beside the rank's own share.
- Stage 3 holds all weights gathered at the peak in a network below stage3_max_live_parameters (1e9).
- The CPU's attention stores its T x T probabilities where there is dropout; the GPU's does not.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from layoutner.errors import ModelError, SettingsError
from layoutner.planning.batch_plan import plan_batch

MiB, GiB = 2**20, 2**30
UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
BUCKET = 500_000_000  # elements; DeepSpeed's default of reduce_bucket_size, and its all-reduce at stage 0
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Network:
    """What the arithmetic needs of a token classifier."""

    parameters: int
    trainable: int  # all but the pooler, which a token classifier does not use
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    vocab_size: int
    labels: int
    tensors: tuple[int, ...]  # elements of each trainable tensor
    dropout: bool = True  # in attention
    attention: Literal["sdpa", "eager"] = "sdpa"  # transformers 5 takes sdpa for all three families

    @classmethod
    def from_config(cls, config: Mapping[str, Any], family: str, labels: int) -> "Network":
        """Count the parameters of families.build's network from a checkpoint's config.json.

        Raises:
            ModelError: another family, or a size that config.json lacks or that is no number.
        """
        if family not in ("bert", "roberta", "layoutlm"):
            raise ModelError(f"a {family!r}: memory can be planned for bert, roberta and layoutlm")
        defaults = {"type_vocab_size": 2, "max_2d_position_embeddings": 1024, "vocab_size": 30522}
        defaults |= {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
        defaults |= {"intermediate_size": 3072, "max_position_embeddings": 512}
        size = {key: config.get(key, default) for key, default in defaults.items()}
        for key, value in size.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ModelError(f"the checkpoint's config.json: {key} = {value!r} is no whole number above 0")
        hidden, inner = size["hidden_size"], size["intermediate_size"]
        rows = [size["vocab_size"], size["max_position_embeddings"], size["type_vocab_size"]]
        pooler = 0
        if family == "layoutlm":
            rows += [size["max_2d_position_embeddings"]] * 4  # x, y, h, w
            pooler = hidden * hidden + hidden
        layer = [hidden * hidden, hidden] * 4 + [hidden, hidden] * 2 + [hidden * inner, inner, inner * hidden, hidden]
        tensors = [r * hidden for r in rows] + [hidden, hidden] + layer * size["num_hidden_layers"]
        tensors += [hidden * labels, labels]
        return cls(
            parameters=sum(tensors) + pooler,
            trainable=sum(tensors),
            hidden_size=hidden,
            layers=size["num_hidden_layers"],
            heads=size["num_attention_heads"],
            intermediate_size=inner,
            vocab_size=size["vocab_size"],
            labels=labels,
            tensors=tuple(tensors),
            dropout=bool(config.get("attention_probs_dropout_prob", 0.1)),
        )


@dataclass(frozen=True)
class Memory:
    """Bytes that one rank holds at its peak."""

    parameters: int
    gradients: int
    optimizer_states: int  # fp32 master weights and both moments
    activations: int
    buffers: int  # communication buckets, gathered weights, and temporaries of the step where they set the peak

    @property
    def model_states(self) -> int:
        """Parameters, gradients and optimizer states: what does not depend on the micro-batch."""
        return self.parameters + self.gradients + self.optimizer_states

    @property
    def total(self) -> int:
        """The peak. With no accumulation it is an upper bound: gradients appear while activations go."""
        return self.model_states + self.activations + self.buffers

    def __str__(self) -> str:
        parts = {name: getattr(self, name) for name in COLUMNS}
        return "\n".join(f"{name.replace('_', ' '):<17}{show(size):>12}" for name, size in parts.items())


COLUMNS = ("parameters", "gradients", "optimizer_states", "activations", "buffers", "total")


def show(size: int) -> str:
    """A size in GiB, or in MiB below one GiB."""
    return f"{size / GiB:.2f} GiB" if size >= GiB else f"{size / MiB:.1f} MiB"


def activations(network: Network, dtype: str, micro_batch_size: int, window_tokens: int, device: Device) -> int:
    """Bytes that autograd keeps from the forward of one micro-batch to its backward.

    A layer keeps, per token, 8 h + 2 i elements: its input, Q, K, V, the attention's output, both sums before
    LayerNorm and the first LayerNorm's output, and the inner layer before and after GELU (after Korthikanti et al.
    2022, arXiv:2205.05198, section 4.1), and 2 h bytes of dropout masks. Attention that stores its probabilities adds
    per head T x T of them before and after dropout, with a mask of bytes, and scaled copies of Q and K.
    """
    item, hidden, inner = BYTES[dtype], network.hidden_size, network.intermediate_size
    tokens = micro_batch_size * window_tokens
    layer = tokens * ((8 * hidden + 2 * inner) * item + 2 * hidden)
    if network.attention == "eager" or (device == "cpu" and network.dropout):
        each = 2 * item + 1 + (8 if device == "cpu" and item == 2 else 0)  # measured: the CPU keeps fp32 ones as well
        layer += micro_batch_size * network.heads * window_tokens**2 * each + 2 * tokens * hidden * item
    # Embeddings before and after LayerNorm, the last output and its dropout; logits, in fp32 too, and their softmax;
    # and what the first operators of the backward hold beside all of that.
    ends = tokens * (4 * hidden * item + network.labels * (item + 8)) + tokens * 2 * inner * item
    return network.layers * layer + ends


def estimate(
    network: Network,
    *,
    dtype: str,
    stage: int,
    world_size: int,
    micro_batch_size: int,
    window_tokens: int,
    ds_config: Mapping[str, Any],
    device: Device = "cuda",
) -> Memory:
    """The peak of one rank.

    Args:
        window_tokens: tokens of the longest window, padding included.
        ds_config: as rendered; its buckets, accumulation, offload and persistence threshold are read.
    """
    zero = ds_config.get("zero_optimization", {})
    accumulates = ds_config.get("gradient_accumulation_steps", 1) > 1
    item, whole = BYTES[dtype], network.trainable
    share = -(-whole // world_size)  # elements of a rank's partition
    frozen = (network.parameters - whole) * item
    held = activations(network, dtype, micro_batch_size, window_tokens, device)
    offloads = device != "cpu" and stage > 0 and bool(zero.get("offload_optimizer"))
    bucket = min(int(zero.get("reduce_bucket_size", BUCKET)), BUCKET) * item
    parameters, states, backward, step = whole * item + frozen, 12 * share, 0, 0
    if stage == 0:
        gradients = whole * item
        states = 12 * whole if dtype != "fp32" else 8 * whole
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
    device: Device = "cuda",
) -> int | None:
    """The largest micro-batch, of those that splits of the global batch have, whose peak is within `limit` bytes."""
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
            device=device,
        )
        if need.total <= limit:
            return batch.micro_batch_size
        micro = batch.micro_batch_size - 1
    return None


def parse_memory(text: str) -> int:
    """Bytes of "24GiB", "24GB", "40G" or "800MiB". All units are powers of 1024, as GPU makers count memory.

    Raises:
        SettingsError: anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    size = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise SettingsError(f"{text!r} is no amount of memory: a number and a unit, as in 24GiB, 24GB, 40G or 800MiB")
    return size
