"""Attention in packed rows: every window attends to itself alone, and nothing is padded."""

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from layoutner.errors import SettingsError
from layoutner.models.dropout import Dropout
from layoutner.models.families import FAMILIES
from layoutner.settings.tree import Attention, Settings

ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")  # in transformers' configurations
OWN_ATTENTION = ("layoutlmv2", "lilt", "bros")  # families whose attention is not transformers' to choose


def packed_attention(
    module: nn.Module,
    query_1HTD: torch.Tensor,
    key_1HTD: torch.Tensor,
    value_1HTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    window_lengths: tuple[int, ...] | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    position_bias: torch.Tensor | None = None,
    kernel: Attention = "auto",
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one packed row of T tokens, H heads and D features per head; a function for transformers.

    On a GPU in fp16 or bf16 without attention dropout, one kernel computes all windows. Otherwise they are computed
    one after the other. Without `window_lengths` the rows are padded, and this is transformers' own "sdpa".

    Args:
        kernel: settings.model.attention. "sdpa" does without the one kernel, "eager" without any.
        module: the attention layer.
        attention_mask: of padded rows; not used for a packed row.
        scaling: factor of the scores.
        window_lengths: tokens of each window, in order; they sum to T.
        cu_seq_lens_q: the first token of each window, and T; int32, on the device of the row.
        dropout: probability of dropping an attention probability. If the layer has a `models.dropout.Dropout`, it drops
            them, otherwise torch does.
        sliding_window: if given, a token attends to those less than this far away.
        position_bias: added to the scores of padded rows.

    Returns:
        The attended values, 1 x T x H x D, and no probabilities.
    """
    own = getattr(module, "dropout", None)
    drop = own if dropout and isinstance(own, Dropout) else None
    in_memory = drop is not None or kernel == "eager"

    def dropped(probabilities_BHTT: torch.Tensor, first: int) -> torch.Tensor:
        if drop is None:
            return functional.dropout(probabilities_BHTT, dropout)
        # Not as a module: at ZeRO 3 all ranks must call the same modules, and they have other numbers of windows.
        return drop.forward(probabilities_BHTT, first)

    if window_lengths is None or cu_seq_lens_q is None:
        if in_memory:
            masks = [mask for mask in (position_bias, attention_mask) if mask is not None]
            attended = _attend(query_1HTD, key_1HTD, value_1HTD, scaling, masks, partial(dropped, first=0))
            return attended.transpose(1, 2), None
        attended, _ = sdpa_attention_forward(
            module,
            query_1HTD,
            key_1HTD,
            value_1HTD,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            position_bias=position_bias,
            **others,
        )
        return attended, None
    if query_1HTD.is_cuda and query_1HTD.dtype != torch.float32 and not dropout and kernel in ("auto", "flash"):
        return _in_one_kernel(
            query_1HTD, key_1HTD, value_1HTD, scaling, window_lengths, cu_seq_lens_q, sliding_window
        ), None
    row, lengths = (query_1HTD, key_1HTD, value_1HTD), list(window_lengths)
    windows: list[torch.Tensor] = []
    first = 0
    for query, key, value in zip(*(torch.split(tensor, lengths, dim=2) for tensor in row), strict=True):
        band = _band(query, sliding_window)
        if in_memory:
            masks = [] if band is None else [band]
            windows.append(_attend(query, key, value, scaling, masks, partial(dropped, first=first)))
        else:
            windows.append(
                functional.scaled_dot_product_attention(query, key, value, band, dropout_p=dropout, scale=scaling)
            )
        first += query.shape[2]
    return torch.cat(windows, dim=2).transpose(1, 2), None


def _attend(
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    scaling: float,
    masks: list[torch.Tensor],
    dropped: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Attention whose probabilities are in memory: no kernel takes a mask of what to drop.

    Args:
        masks: booleans of what is attended to, or floats to add to the scores.
        dropped: probabilities -> the same after dropout.
    """
    scores_BHTT = (query_BHTD * scaling) @ key_BHTD.transpose(-1, -2)
    for mask in masks:
        if mask.dtype == torch.bool:  # made a float while it is small, the same for all heads
            lowest = torch.finfo(scores_BHTT.dtype).min
            mask = torch.zeros_like(mask, dtype=scores_BHTT.dtype).masked_fill_(~mask, lowest)
        scores_BHTT = scores_BHTT + mask
    probabilities_BHTT = scores_BHTT.softmax(dim=-1, dtype=torch.float32).to(query_BHTD.dtype)
    return dropped(probabilities_BHTT) @ value_BHTD


def _in_one_kernel(
    query_1HTD: torch.Tensor,
    key_1HTD: torch.Tensor,
    value_1HTD: torch.Tensor,
    scaling: float,
    window_lengths: tuple[int, ...],
    cu_seq_lens: torch.Tensor,
    sliding_window: int | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn  # needs flash attention, which CPU builds do not have

    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query_1HTD, key_1HTD, value_1HTD))
    longest = max(window_lengths)
    reach = -1 if sliding_window is None else sliding_window - 1
    attended = varlen_attn(
        query, key, value, cu_seq_lens, cu_seq_lens, longest, longest, scale=scaling, window_size=(reach, reach)
    )
    assert isinstance(attended, torch.Tensor)  # a tuple only where an auxiliary result is asked for
    return attended[None]


def _band(query_1HTD: torch.Tensor, sliding_window: int | None) -> torch.Tensor | None:
    """Which tokens attend to which, T x T; None if all do."""
    tokens = query_1HTD.shape[2]
    if sliding_window is None or tokens <= sliding_window:
        return None
    position = torch.arange(tokens, device=query_1HTD.device)
    return (position[:, None] - position[None, :]).abs() < sliding_window


def implementation(attention: Attention) -> str:
    """The name by which a network's configuration selects `packed_attention`."""
    # transformers looks for a package of flash attention if a name has "flash" in it.
    return f"layoutner_{'one_kernel' if attention == 'flash' else attention}"


def attention_options(family: str) -> dict[str, str]:
    """transformers' arguments that let a network take packed rows, if its family can."""
    return {"attn_implementation": implementation("auto")} if FAMILIES[family].packs else {}


def require_attention(settings: Settings, family: str, config: Any, device: torch.device) -> None:
    """Refuse a setting of model.attention that would be ignored.

    Args:
        config: configuration of the pretrained model.

    Raises:
        SettingsError: the family computes its attention itself, or the kernel cannot compute it.
    """
    attention, drops = settings.model.attention, settings.model.dropout
    if attention in ("auto", "eager"):
        return
    if drops is None:
        drops = max(getattr(config, name, 0.0) for name in ATTENTION_DROPOUT)
    if attention == "sdpa":
        if family in OWN_ATTENTION:
            raise SettingsError(
                f"model.attention = sdpa: {family} computes its attention itself, from boxes too; use auto"
            )
        if drops and settings.model.dropout_masks == "rank-free":
            raise SettingsError(
                f"model.attention = sdpa: the dropout of attention is {drops:g}, and no kernel takes the masks of "
                "model.dropout_masks = rank-free; use auto, model.dropout = 0, or model.dropout_masks = torch"
            )
        return
    why = []
    if not FAMILIES[family].packs:
        why.append(f"{family} adds to its attention, which the kernel cannot")
    if device.type != "cuda" or settings.precision.dtype == "fp32":
        why.append(f"the kernel needs a GPU and fp16 or bf16, not {device.type} and {settings.precision.dtype}")
    if drops:
        why.append(f"the kernel has no dropout, and that of attention is {drops:g} (model.dropout = 0 turns it off)")
    if why:
        raise SettingsError(f"model.attention = flash: {'; '.join(why)}; use auto")


for _kernel in get_args(Attention):
    AttentionInterface.register(implementation(_kernel), partial(packed_attention, kernel=_kernel))
    AttentionMaskInterface.register(implementation(_kernel), sdpa_mask)
