"""Dropout whose masks depend on neither ranks nor micro-batches nor packing.

Whether an element is kept is a pure function of (seed, optimizer step, window, site, position in the window, feature);
for an attention probability, of (seed, step, window, site, head, query position, key position). A site is one call of
one dropout module. So a step draws the same masks on any number of ranks and in any micro-batch, a resumed run draws
those of the uninterrupted one, and padding changes nothing. CPU, CUDA and all dtypes have the same masks.

The generator is counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a hash of the
element's coordinates, with no state. One 64-bit hash serves four neighbouring features, 16 bits for each. A
probability is therefore rounded to a multiple of 2**-16 = 0.000015. Kept values are scaled by the rounded probability,
so their expectation is exact.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from layoutner.corpus.batches import Batch

# Settings of transformers' configurations that are probabilities of dropping.
PROBABILITIES = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "classifier_dropout_prob",
    "embedding_dropout", "attention_dropout", "mlp_dropout",
)  # fmt: skip

LEVELS = 2**16  # of a 16-bit random number
LANES = 4  # random numbers per hash

# Positions of visual tokens (LayoutLMv2 and v3) in their window: later than that of any text token, so that they do not
# depend on how far the text is padded. A multiple of LANES.
VISUAL = 2**32

# Odd factors: that of the mixer degski64, and 2**64 divided by the golden ratio, which spreads consecutive numbers.
MIXER = 0xD6E8FEB86659FD93
GOLDEN = 0x9E3779B97F4A7C15


def _signed(number: int) -> int:
    """The int64 with the low 64 bits of a number."""
    return (number + 2**63) % 2**64 - 2**63


def _mixed(number: int) -> int:
    """`_mix_` of one number."""
    number %= 2**64
    for _ in range(2):
        number = (number ^ number >> 32) * MIXER % 2**64
    return _signed(number ^ number >> 32)


def _mix_(numbers: torch.Tensor, folded: bool = False) -> torch.Tensor:
    """Hash contiguous int64s in place: the mixer degski64, a bijection in which every bit affects all others.

    Args:
        folded: the numbers are hashes, or xors of hashes, so that the first xor would change nothing.
    """
    halves = numbers.view(torch.int32)
    low, high = halves[..., 0::2], halves[..., 1::2]  # of a little-endian machine
    if not folded:
        low.bitwise_xor_(high)  # x ^= x >> 32; torch's >> of an int64 would copy the sign
    for _ in range(2):
        numbers.mul_(_signed(MIXER))
        low.bitwise_xor_(high)
    return numbers


def _spread(base: torch.Tensor | int, numbers: torch.Tensor) -> torch.Tensor:
    """Hashes of consecutive numbers, all others with another base."""
    return _mix_((numbers * _signed(GOLDEN) + base).contiguous())


@dataclass(frozen=True)
class MaskKeys:
    """What the masks of one micro-batch depend on. Made by `mask_keys`."""

    windows_B: torch.Tensor  # int64, hashed from (seed, step, window) of the first window of each row
    tokens_BT: torch.Tensor  # int64, hashed from (seed, step, window, position in the window)
    _columns: dict[tuple[int, int, int], torch.Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "MaskKeys":
        """The same keys on a device."""
        windows_B, tokens_BT = (keys.to(device, non_blocking=non_blocking) for keys in (self.windows_B, self.tokens_BT))
        return MaskKeys(windows_B, tokens_BT)

    def pin_memory(self) -> "MaskKeys":
        """The same keys in page-locked memory."""
        return MaskKeys(self.windows_B.pin_memory(), self.tokens_BT.pin_memory())

    def tokens(self, first: int, number: int, visual: bool) -> torch.Tensor:
        """Keys of `number` tokens of each row from the one with index `first`. Visual tokens follow the T of the text.

        Args:
            visual: there are no text tokens.
        """
        text = 0 if visual else self.tokens_BT.shape[1]
        if first + number <= text:
            return self.tokens_BT.narrow(1, first, number)
        image = VISUAL + torch.arange(first + number - text, device=self.tokens_BT.device)
        image_BV = _spread(self.windows_B[:, None], image)
        return torch.cat((self.tokens_BT[:, first:text], image_BV), dim=1) if text else image_BV

    def columns(self, heads: int, features: int, visual: int = 0) -> torch.Tensor:
        """Hashes of the features of a token, or of the key positions of each attention head: one for LANES of them.

        Args:
            heads: number of heads; 0 for the features of a token.
            visual: number of key positions of visual tokens that follow.

        Returns:
            W hashes; H x 1 x W with heads.
        """
        numbers = (heads, features, visual)
        if numbers not in self._columns:
            starts = ((0, features), (VISUAL // LANES, visual))
            device = self.tokens_BT.device
            columns_W = torch.cat(
                [start + torch.arange(-(-number // LANES), device=device) for start, number in starts]
            )
            if heads:
                columns_W = columns_W + torch.arange(1, heads + 1, device=device)[:, None, None] * VISUAL
            self._columns[numbers] = _spread(_signed(MIXER), columns_W)
        return self._columns[numbers]


def mask_keys(seed: int, step: int, indices: Sequence[int], batch: Batch) -> MaskKeys:
    """The keys of one micro-batch, on the CPU.

    Args:
        seed: run.seed.
        step: number of optimizer steps done before.
        indices: of the batch's windows among the training windows; empty for a batch of padding.
    """
    of_step = _mixed(_mixed(seed + GOLDEN) + step)  # seed 0 is hashed too: the mixer maps 0 to itself
    window_BT = torch.full_like(batch.positions_BT, -1)  # padding has that of none
    for tokens, index in zip(batch.of_windows(window_BT), indices, strict=True):
        tokens.fill_(index)
    window_BT = _spread(of_step, window_BT)
    return MaskKeys(window_BT[:, 0].contiguous(), _spread(window_BT, batch.positions_BT))


class Dropout(nn.Module):
    """Dropout at one place of a network; in training only, within `masks_from`.

    An attention module whose attention transformers computes has one too, and the attention function calls it.
    """

    def __init__(self, p: float, name: str) -> None:
        """Create it.

        Args:
            p: probability of dropping an element.
            name: of the module in the network, which its masks depend on.
        """
        super().__init__()
        self.p = p
        self.site = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        self.visual = name.endswith("visual_dropout")  # LayoutLMv2's dropout of visual tokens alone
        self.keys: MaskKeys | None = None
        self.calls = 0  # since the forward pass of the module around it began; LiLT drops two kinds of probabilities

    def forward(self, values: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Drop elements, and scale the others by 1 / (probability of keeping them).

        Args:
            values: hidden states, B x T x F, or attention probabilities, B x H x T x T.
            first: index in the row of the first of these T tokens. The windows of a packed row may be given one after
                the other.

        Raises:
            RuntimeError: in training outside of `masks_from`.
        """
        threshold = round(self.p * LEVELS)
        if not self.training or not threshold:
            return values
        if self.keys is None:
            raise RuntimeError("dropout has no mask keys: call the network in `masks_from`, or build it with torch's")
        self.calls += first == 0  # the parts of a row are one call
        site = _mixed(self.site + self.calls)
        width = values.shape[-1]
        rows = (self.keys.tokens(first, values.shape[-2], self.visual) ^ site)[..., None]
        if values.dim() == 3:
            text, columns = width, self.keys.columns(0, width)
        else:
            rows, text = rows[:, None], min(width, self.keys.tokens_BT.shape[1])
            columns = self.keys.columns(values.shape[1], text, width - text)
        dropped: torch.Tensor = _Drop.apply(values, rows, columns, text, threshold)  # type: ignore[no-untyped-call]
        return dropped

    def extra_repr(self) -> str:
        """The probability, as nn.Dropout shows it."""
        return f"p={self.p}"


def random_lanes(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Independent uniform int16s, LANES for each pair of a row and a column.

    Args:
        rows: hashes, int64, ... x 1.
        columns: hashes, int64, ... x W.

    Returns:
        int16, ... x (LANES * W).
    """
    return _mix_((rows ^ columns).contiguous(), folded=True).view(torch.int16)


class _Drop(torch.autograd.Function):
    """Multiplication by a mask.

    On the CPU the backward pass uses the random bits again, which are half the size of fp32 activations. On a GPU,
    where memory is scarcer, it hashes again and stores next to nothing.
    """

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, text: int, threshold: int
    ) -> torch.Tensor:
        lanes = random_lanes(rows, columns)
        if values.is_cpu:
            ctx.save_for_backward(lanes)
        else:
            ctx.save_for_backward(rows, columns)
        ctx.numbers = text, threshold
        return _drop(values, lanes, text, threshold)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        saved = ctx.saved_tensors
        lanes = saved[0] if len(saved) == 1 else random_lanes(*saved)
        return _drop(gradient, lanes, *ctx.numbers), None, None, None, None


def _drop(values: torch.Tensor, lanes: torch.Tensor, text: int, threshold: int) -> torch.Tensor:
    """Keep the values whose 16-bit number is at least the threshold, and scale them."""
    width = values.shape[-1]
    if text % LANES and text < width:  # the lanes of visual tokens begin with a hash of their own
        lanes = torch.cat((lanes[..., :text], lanes[..., -(-text // LANES) * LANES :]), dim=-1)
    # The lowest int16 stands for 0. Comparing into floats is several times faster than `where` with a mask of bools.
    kept = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    torch.ge(lanes[..., :width], min(threshold, LEVELS - 1) - LEVELS // 2, out=kept)
    return kept.mul_(values).mul_(LEVELS / (LEVELS - threshold) if threshold < LEVELS else 0.0)


def set_probability(config: Any, p: float) -> None:
    """Set every dropout probability of a network's configuration."""
    for key in PROBABILITIES:
        if hasattr(config, key):
            setattr(config, key, p)


def replace_dropout(model: nn.Module) -> None:
    """Replace every dropout module of a network.

    Attention modules that only have a probability (ModernBERT) get a module. `models/attention.py` calls it.
    """
    for parent_name, parent in list(model.named_modules()):
        if hasattr(parent, "attention_dropout") and not hasattr(parent, "dropout"):
            parent.dropout = nn.Dropout(parent.attention_dropout)
        dropouts = {name: child for name, child in parent.named_children() if isinstance(child, nn.Dropout)}
        for name, child in dropouts.items():
            setattr(parent, name, Dropout(child.p, f"{parent_name}.{name}".lstrip(".")))
        if dropouts:
            parent.register_forward_pre_hook(_begin)


def _begin(parent: nn.Module, _: Any) -> None:
    for child in parent.children():
        if isinstance(child, Dropout):
            child.calls = 0


@contextmanager
def masks_from(model: nn.Module, keys: MaskKeys) -> Iterator[None]:
    """Within this context, the network's dropout draws its masks from these keys.

    The backward pass belongs into it too: gradient checkpointing runs the network again there.
    """
    modules = [module for module in model.modules() if isinstance(module, Dropout)]
    for module in modules:
        module.keys, module.calls = keys, 0
    try:
        yield
    finally:
        for module in modules:
            module.keys = None
