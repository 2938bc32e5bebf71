"""The network families, in one table: what each takes, how its tokenizer is opened, what of it is not trained."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers.models.bros.modeling_bros import BrosPositionalEmbedding1D

from layoutner.corpus.batches import Batch
from layoutner.corpus.pixels import PageImages
from layoutner.pages.document import Box

CORNERS: tuple[Box, Box] = ((0, 0, 0, 0), (1000, 1000, 1000, 1000))
ORIGIN: tuple[Box, Box] = ((0, 0, 0, 0), (0, 0, 0, 0))

# Byte-level BPE tells a word's start by the space before it, so every word gets one.
SPACED = (("add_prefix_space", True),)

# LayoutLMv2 and v3 look their relative positions up without a gradient.
RELATIVE = (".rel_pos_bias.", ".rel_pos_x_bias.", ".rel_pos_y_bias.")


@dataclass(frozen=True)
class Family:
    """What sets a family apart. Names of parameters are parts of ".name"; {last} is the number of the last layer."""

    boxes: Literal["none", "thousandths", "fractions"] = "none"
    special_boxes: tuple[Box, Box] = CORNERS  # of the tokens before and after the words
    tokenizer_options: tuple[tuple[str, Any], ...] = ()
    positions_after_padding: bool = False  # position ids start behind the padding token's id, so there are fewer
    image: str | None = None  # argument of forward for the page image
    image_optional: bool = False
    unused: tuple[str, ...] = ()  # parameters that no label depends on, or that get no gradient
    visual: tuple[str, ...] = ()  # parameters that only page images reach
    fp32_inputs: tuple[str, ...] = ()  # modules that boxes or pixels enter in fp32, whatever the weights are in
    kept_head: tuple[str, ...] = ()  # modules beside the backbone that pretraining made, and fine-tuning goes on with


FAMILIES = {
    "bert": Family(),
    "roberta": Family(tokenizer_options=SPACED, positions_after_padding=True),
    "xlm-roberta": Family(positions_after_padding=True),
    "layoutlm": Family(boxes="thousandths", unused=(".pooler.",)),
    "layoutlmv2": Family(
        boxes="thousandths",
        image="image",
        # Of the feature pyramid's four outputs, the network takes the finest.
        unused=(".pooler.", *RELATIVE, ".fpn_output3.", ".fpn_output4.", ".fpn_output5."),
        fp32_inputs=("layoutlmv2.visual.backbone",),
    ),
    "layoutlmv3": Family(
        boxes="thousandths",
        special_boxes=ORIGIN,
        tokenizer_options=SPACED,
        positions_after_padding=True,  # of the text; page images have positions of their own
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
        # Of the last layer only the text's stream is read; the layout's still steers its attention.
        unused=(
            ".layer.{last}.attention.self.layout_value.",
            ".layer.{last}.attention.layout_output.",
            ".layer.{last}.layout_intermediate.",
            ".layer.{last}.layout_output.",
        ),
    ),
    # In bf16 the coordinates of the page's far half would be a two-hundredth of it apart.
    "bros": Family(boxes="fractions", unused=(".pooler.",), fp32_inputs=("bros.bbox_embeddings.bbox_projection",)),
    "modernbert": Family(tokenizer_options=SPACED, kept_head=("head",)),
}


def model_inputs(
    family: str, batch: Batch, device: torch.device | str, pages: PageImages | None = None
) -> dict[str, torch.Tensor]:
    """Keyword arguments of the family's forward, for a network that `accept_fp32` has prepared.

    Token types are left out: one page is one segment, 0. Whatever is no index is fp32.

    Args:
        pages: reads the page images; None where the network does not see them.

    Raises:
        DataError: a page image cannot be read.
    """
    row = FAMILIES[family]
    tensors = {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_mask_BT}
    if row.boxes == "thousandths":
        tensors["bbox"] = batch.boxes_BT4
    elif row.boxes == "fractions":
        tensors["bbox"] = batch.boxes_BT4 / 1000
    if row.image is not None and pages is not None:
        tensors[row.image] = pages.pixels(batch.images)
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def untrained(family: str, model: Any, sees_images: bool) -> Iterator[str]:
    """Names of the parameters that stay as the checkpoint has them, because no gradient reaches them."""
    row = FAMILIES[family]
    last = model.config.num_hidden_layers - 1
    parts = [part.format(last=last) for part in (*row.unused, *(() if sees_images else row.visual))]
    for name, _ in model.named_parameters():
        if any(part in f".{name}" for part in parts):
            yield name


def accept_fp32(family: str, model: Any) -> None:
    """Let the network take boxes and pixels in fp32 when its weights are in fp16 or bf16, and compute as it trained."""
    modules = dict(model.named_modules())
    for name in FAMILIES[family].fp32_inputs:
        if name in modules:
            modules[name].register_forward_pre_hook(_to_dtype_of_weights)
    for module in modules.values():
        if isinstance(module, BrosPositionalEmbedding1D):
            # DeepSpeed keeps this buffer in fp32, from_pretrained rounds it as it does weights.
            size = module.dim_bbox_sinusoid_emb_1d
            module.inv_freq = 1 / 10000 ** (torch.arange(0.0, size, 2.0, device=module.inv_freq.device) / size)


def _to_dtype_of_weights(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (inputs[0].to(next(module.parameters()).dtype), *inputs[1:])
