"""Table of model families: inputs, tokenizer options and frozen parameters of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import nn

from layoutner.corpus.batches import Batch
from layoutner.corpus.pixels import PageImages
from layoutner.corpus.splitter import WindowSplitter
from layoutner.pages.document import Box
from layoutner.settings.data import DataSettings

CORNERS: tuple[Box, Box] = ((0, 0, 0, 0), (1000, 1000, 1000, 1000))
ORIGIN: tuple[Box, Box] = ((0, 0, 0, 0), (0, 0, 0, 0))

# Byte-level BPE encodes the start of a word by a leading space, so every word gets one.
SPACED = (("add_prefix_space", True),)

# LayoutLMv2 and v3 look up their relative position biases without a gradient.
RELATIVE = (".rel_pos_bias.", ".rel_pos_x_bias.", ".rel_pos_y_bias.")


@dataclass(frozen=True)
class Family:
    """Properties of a model family.

    A parameter matches an entry of `unused` or `visual` if "." + its name contains the entry. {last} is the index of
    the last layer.
    """

    boxes: Literal["none", "thousandths", "fractions"] = "none"
    special_boxes: tuple[Box, Box] = CORNERS  # boxes of the special tokens before and after the words
    tokenizer_options: tuple[tuple[str, Any], ...] = ()
    positions_after_padding: bool = False  # position ids start at the padding id + 1, so fewer positions are usable
    image: str | None = None  # name of forward's argument for the page image
    image_optional: bool = False
    unused: tuple[str, ...] = ()  # parameters that do not affect the logits, or that get no gradient
    visual: tuple[str, ...] = ()  # parameters that are only used with page images
    fp32_inputs: tuple[str, ...] = ()  # modules that take boxes or pixels in fp32, whatever the dtype of the weights
    packs: bool = False  # windows can be packed into one row: its attention goes through transformers' interface
    packed_mask: bool = False  # packed rows need an attention mask, or transformers warns of padding
    kept_head: tuple[str, ...] = ()  # pretrained modules outside the backbone that fine-tuning continues to train


FAMILIES = {
    "bert": Family(packs=True),
    "roberta": Family(tokenizer_options=SPACED, positions_after_padding=True, packs=True),
    "xlm-roberta": Family(positions_after_padding=True, packs=True),
    "layoutlm": Family(boxes="thousandths", unused=(".pooler.",), packs=True, packed_mask=True),
    "layoutlmv2": Family(
        boxes="thousandths",
        image="image",
        # Of the feature pyramid's four outputs, the network uses only the finest.
        unused=(".pooler.", *RELATIVE, ".fpn_output3.", ".fpn_output4.", ".fpn_output5."),
        fp32_inputs=("layoutlmv2.visual.backbone",),
    ),
    "layoutlmv3": Family(
        boxes="thousandths",
        special_boxes=ORIGIN,
        tokenizer_options=SPACED,
        positions_after_padding=True,  # of text tokens; image patches have their own position embeddings
        image="pixel_values",
        image_optional=True,
        unused=RELATIVE,
        visual=(
            ".layoutlmv3.patch_embed.",
            ".layoutlmv3.cls_token",
            ".layoutlmv3.pos_embed",
            ".layoutlmv3.LayerNorm.",
            ".layoutlmv3.norm.",
        ),
        fp32_inputs=("layoutlmv3.patch_embed",),
    ),
    "lilt": Family(
        boxes="thousandths",
        special_boxes=ORIGIN,
        tokenizer_options=SPACED,
        positions_after_padding=True,
        # Of the last layer, only the text stream is used. Its layout stream still contributes to the attention scores.
        unused=(
            ".layer.{last}.attention.self.layout_value.",
            ".layer.{last}.attention.layout_output.",
            ".layer.{last}.layout_intermediate.",
            ".layer.{last}.layout_output.",
        ),
    ),
    # In bf16, coordinates between 0.5 and 1 would be rounded to steps of about 1/256 of the page.
    "bros": Family(boxes="fractions", unused=(".pooler.",), fp32_inputs=("bros.bbox_embeddings.bbox_projection",)),
    "modernbert": Family(tokenizer_options=SPACED, kept_head=("head",), packs=True),
}


def window_splitter(family: str, tokenizer: Any, data: DataSettings) -> WindowSplitter:
    """What cuts documents into windows of this family."""
    return WindowSplitter(tokenizer, data.max_length, data.stride, data.box_level, FAMILIES[family].special_boxes)


def model_inputs(family: str, batch: Batch, pages: PageImages | None = None) -> dict[str, Any]:
    """Keyword arguments of the family's forward, on the CPU, for a network that `accept_fp32` has prepared.

    Token types are omitted: every token has type 0. Inputs that are not indices are in fp32.

    Args:
        pages: reads the page images; None if the network does not use them.

    Raises:
        DataError: a page image cannot be read.
    """
    row = FAMILIES[family]
    inputs: dict[str, Any] = {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_mask_BT}
    if batch.packed:
        # Nothing is hidden in a packed row, and a mask would be read back from the device to find that out.
        if not row.packed_mask:
            del inputs["attention_mask"]
        # The padding at the end is a window of its own.
        lengths = (*batch.window_lengths, batch.input_ids_BT.shape[1] - sum(batch.window_lengths))
        inputs["window_lengths"] = lengths = tuple(length for length in lengths if length)
        inputs["cu_seq_lens_q"] = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        first = batch.pad_token_id + 1 if row.positions_after_padding else 0
        inputs["position_ids"] = batch.positions_BT + first
    if row.boxes == "thousandths":
        inputs["bbox"] = batch.boxes_BT4
    elif row.boxes == "fractions":
        inputs["bbox"] = batch.boxes_BT4 / 1000
    if row.image is not None and pages is not None:
        inputs[row.image] = pages.pixels(batch.images)
    return inputs


def untrained(family: str, model: Any, sees_images: bool) -> Iterator[str]:
    """Names of the parameters to freeze, because they get no gradient."""
    row = FAMILIES[family]
    last = model.config.num_hidden_layers - 1
    parts = [part.format(last=last) for part in (*row.unused, *(() if sees_images else row.visual))]
    for name, _ in model.named_parameters():
        if any(part in f".{name}" for part in parts):
            yield name


def accept_fp32(family: str, model: Any) -> None:
    """Let a network in fp16 or bf16 accept boxes and pixels in fp32, and compute exactly as in training."""
    for name, module in model.named_modules():
        if name in FAMILIES[family].fp32_inputs:
            module.register_forward_pre_hook(_to_dtype_of_weights)
        if type(module).__name__ == "BrosPositionalEmbedding1D":  # by name: every command would load the module
            # DeepSpeed keeps this buffer in fp32, but from_pretrained rounds it to the dtype of the weights.
            size = module.dim_bbox_sinusoid_emb_1d
            module.inv_freq = 1 / 10000 ** (torch.arange(0.0, size, 2.0, device=module.inv_freq.device) / size)


def _to_dtype_of_weights(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (inputs[0].to(next(module.parameters()).dtype), *inputs[1:])
