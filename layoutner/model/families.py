"""The network families: what each takes as input, and how a checkpoint becomes one of them."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification, AutoTokenizer, LayoutLMConfig

from layoutner.config.errors import UserError, first_line
from layoutner.config.settings import ModelSettings
from layoutner.data.batches import Batch

# Size of new layout tables against the word embeddings they are added to (both as standard deviation per element):
# six of them are summed, and at 1 the text model would be drowned.
LAYOUT_SCALE = 0.1

# Parameters that a checkpoint may lack or have left over: heads, and the pooler that a token classifier has not.
HEADS = ("classifier.", "cls.", "lm_head.", "qa_outputs.", "pooler.", "embeddings.position_ids")


@dataclass(frozen=True)
class Family:
    """What a family's forward takes, by argument name, from a Batch."""

    inputs: tuple[str, ...]
    tokenizer_options: tuple[tuple[str, Any], ...] = ()
    first_position: int = 0  # position ids start here, so max_position_embeddings holds that many fewer tokens


FAMILIES = {
    "bert": Family(("input_ids", "attention_mask")),
    # RoBERTa numbers positions from padding_idx + 1 = 2, and its byte-level BPE marks the space before a word.
    "roberta": Family(("input_ids", "attention_mask"), (("add_prefix_space", True),), first_position=2),
    "layoutlm": Family(("input_ids", "attention_mask", "bbox")),
}


def model_inputs(family: str, batch: Batch, device: torch.device | str) -> dict[str, torch.Tensor]:
    """Keyword arguments of the family's forward. Token types are left out: one page is one segment, 0."""
    tensors = {
        "input_ids": batch.input_ids_BT,
        "attention_mask": batch.attention_mask_BT,
        "bbox": batch.boxes_BT4,
    }
    return {name: tensors[name].to(device) for name in FAMILIES[family].inputs}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint looked at, but not loaded: what is needed to cut documents into windows."""

    name: str
    family: str  # the family to build
    config: Any  # transformers configuration of the checkpoint as it is
    tokenizer: Any  # fast tokenizer

    @property
    def max_length(self) -> int:
        """Longest window, in tokens."""
        return int(self.config.max_position_embeddings) - FAMILIES[self.family].first_position


def open_checkpoint(settings: ModelSettings) -> Checkpoint:
    """Read a checkpoint's configuration and tokenizer.

    Raises:
        UserError: no name, nothing there, a family that is not supported or cannot start from this
            checkpoint, no fast tokenizer.
    """
    name = settings.name_or_path
    if name is None:
        raise UserError(
            "model.name_or_path is missing: a hub name such as microsoft/layoutlm-base-uncased, or a folder"
        )
    if (Path(name).exists() or name.startswith((".", "/", "~"))) and not (Path(name) / "config.json").is_file():
        raise UserError(f"model.name_or_path = {name}: there is no config.json in it, so it is no checkpoint folder")
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model.name_or_path = {name}: cannot be opened: {first_line(error)}") from None
    family = settings.family or config.model_type
    if family not in FAMILIES:
        raise UserError(
            f"model.name_or_path = {name}: is a {config.model_type!r}; layoutner builds {', '.join(FAMILIES)} "
            "(set model.family only if the checkpoint can start one)"
        )
    if family != config.model_type and (config.model_type, family) != ("bert", "layoutlm"):
        raise UserError(
            f"model.family = {family}, but {name} is a {config.model_type!r}: only a bert checkpoint can start "
            "another family, layoutlm"
        )
    return Checkpoint(name, family, config, open_tokenizer(name, family, int(config.vocab_size)))


def open_tokenizer(name: str, family: str, vocab_size: int) -> Any:
    """The fast tokenizer of a checkpoint.

    Args:
        vocab_size: rows of the network's word embeddings.

    Raises:
        UserError: none there (transformers then makes an empty one, to which every word is unknown), not a fast one,
            no padding, or more tokens than the network has embeddings for.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, **dict(FAMILIES[family].tokenizer_options))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name}: its tokenizer cannot be opened: {first_line(error)}") from None
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(f"{name}: its tokenizer has no vocabulary (no tokenizer.json, vocab.txt or the like in it)")
    if not tokenizer.is_fast:
        raise UserError(f"{name}: has no fast tokenizer, which aligning words needs")
    if tokenizer.pad_token_id is None:
        raise UserError(f"{name}: its tokenizer has no padding token, which batches need")
    if len(tokenizer) > vocab_size:
        raise UserError(
            f"{name}: its tokenizer has {len(tokenizer)} tokens and its network embeddings for {vocab_size}: "
            "they are not of one checkpoint"
        )
    return tokenizer


def build(checkpoint: Checkpoint, tags: list[str], dropout: float | None) -> nn.Module:
    """The token classifier: the checkpoint's weights, and a new head unless the checkpoint labels these very tags.

    Args:
        tags: id -> tag; the head has one output each.
        dropout: replaces every dropout probability of the network; None leaves the checkpoint's.

    Raises:
        UserError: weights that are missing, left over or of another shape beyond the head and pooler (and,
            where a BERT starts a LayoutLM, the layout tables), each listed.
    """
    config = copy.deepcopy(checkpoint.config)
    own_tags = [config.id2label.get(index) for index in range(config.num_labels)]
    if own_tags == tags and checkpoint.family == config.model_type:
        return _load(AutoModelForTokenClassification, checkpoint, _with_dropout(config, dropout), new=("pooler.",))
    if checkpoint.family != config.model_type:
        fields = {key: value for key, value in config.to_dict().items() if key not in ("model_type", "architectures")}
        config = LayoutLMConfig(**fields)
    config.id2label = dict(enumerate(tags))
    config.label2id = {tag: index for index, tag in enumerate(tags)}
    model = AutoModelForTokenClassification.from_config(_with_dropout(config, dropout), dtype=torch.float32)
    backbone = _load(AutoModel, checkpoint, checkpoint.config, new=HEADS)
    into = getattr(model, model.base_model_prefix)
    report = into.load_state_dict(backbone.state_dict(), strict=False)
    layout = tuple(f"embeddings.{axis}_position_embeddings." for axis in "xyhw")
    adapted = checkpoint.family != checkpoint.config.model_type
    _demand_none(checkpoint.name, "missing", report.missing_keys, layout if adapted else ())
    _demand_none(checkpoint.name, "left over", report.unexpected_keys, HEADS)
    if adapted:
        init_layout_tables(into.embeddings)
    return model  # type: ignore[no-any-return]


def _load(loader: Any, checkpoint: Checkpoint, config: Any, new: tuple[str, ...]) -> nn.Module:
    """from_pretrained that stops where transformers would only warn."""
    try:
        model, report = loader.from_pretrained(
            checkpoint.name,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # said below, with their names
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{checkpoint.name}: its weights cannot be loaded: {first_line(error)}") from None
    _demand_none(checkpoint.name, "missing", report["missing_keys"], new)
    _demand_none(checkpoint.name, "left over", report["unexpected_keys"], HEADS)
    _demand_none(checkpoint.name, "of another shape", [str(key) for key in report["mismatched_keys"]], ())
    loaded: nn.Module = model
    return loaded


def _demand_none(name: str, what: str, keys: Iterable[str], allowed: tuple[str, ...]) -> None:
    keys = sorted(key for key in keys if not any(part in f".{key}" for part in (f".{a}" for a in allowed)))
    if keys:
        raise UserError(
            f"{name}: {len(keys)} weights are {what}, so the network would not be the pretrained one: "
            f"{', '.join(keys[:10])}{', ...' if len(keys) > 10 else ''}"
        )


def _with_dropout(config: Any, dropout: float | None) -> Any:
    if dropout is not None:
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            if hasattr(config, key):
                setattr(config, key, dropout)
    return config


@torch.no_grad()
def init_layout_tables(embeddings: Any, scale: float = LAYOUT_SCALE) -> None:
    """Fill new layout tables with waves of the coordinate, so that neighbouring coordinates start out alike.

    A few hundred pages show most coordinates a few times or never; a table of noise would have to learn each.
    Columns 2i and 2i+1 of a table are sine and cosine at a wavelength that falls from 2000 to 20 thousandths of the
    page (the form of Vaswani et al. 2017, section 3.5), each table in a random rotation of its own, so that the six
    sums of x0, y0, x1, y1, h and w stay apart.

    Args:
        embeddings: the LayoutLM's embeddings module.
        scale: standard deviation of a table's elements, in units of that of the word embeddings.
    """
    size = float(embeddings.word_embeddings.weight.std()) * scale
    for axis in "xyhw":
        table = getattr(embeddings, f"{axis}_position_embeddings").weight
        coordinate = torch.arange(table.shape[0], dtype=torch.float32)[:, None]
        wavelength = 2000 * (20 / 2000) ** torch.linspace(0, 1, -(-table.shape[1] // 2))[None]
        angle = 2 * math.pi * coordinate / wavelength
        waves = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, : table.shape[1]]
        rotation, _ = torch.linalg.qr(torch.randn(table.shape[1], table.shape[1]))
        mixed = (waves - waves.mean(0)) @ rotation  # the text model's mean embedding stays where it is
        table.copy_(mixed * (size / mixed.std()))
