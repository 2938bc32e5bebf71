"""Open a pretrained model and build a token classifier from it.

What loads the networks of transformers is imported where it is needed: it takes seconds, and an ONNX model needs none.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from tokenizers.models import WordPiece
from torch import nn
from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer
from transformers.utils import is_protobuf_available, is_sentencepiece_available

from layoutner.corpus.batches import padded
from layoutner.corpus.pixels import PageImages
from layoutner.errors import ModelError, SettingsError, first_line
from layoutner.models.collator import Collator
from layoutner.models.families import FAMILIES
from layoutner.models.head import carry_over
from layoutner.models.layout_tables import init_layout_tables
from layoutner.models.source import checkpoint_name
from layoutner.settings.data import MAX_IMAGE_MIB
from layoutner.settings.tree import Attention, ModelSettings

logger = logging.getLogger(__name__)

# Maximum share of tokens with capitals in a lower-case vocabulary: words that a user has added to vocab.txt.
STRAY_CAPITALS = 0.01

# Weights that may be missing from a pretrained model or left over: heads of other tasks, the pooler that a token
# classifier does not have, and constants that some versions of transformers save and others do not.
HEADS = ("classifier.", "cls.", "lm_head.", "qa_outputs.", "pooler.", "head.", "decoder.")
CONSTANTS = ("embeddings.position_ids", "visual_bbox", "inv_freq", "num_batches_tracked")


@dataclass(frozen=True)
class PretrainedModel:
    """Configuration and tokenizer of a pretrained model, without its weights: enough to split documents."""

    name: str
    family: str  # the family to build
    config: Any  # transformers configuration of the pretrained model, unchanged
    tokenizer: Any  # fast tokenizer
    image_processor: PageImages | None = None  # None if the network does not use page images

    @property
    def max_length(self) -> int:
        """Maximum window length, in tokens."""
        first = int(self.config.pad_token_id) + 1 if FAMILIES[self.family].positions_after_padding else 0
        return int(self.config.max_position_embeddings) - first

    @property
    def packs(self) -> bool:
        """Whether the network takes packed rows."""
        return FAMILIES[self.family].packs

    def collator(self, device: torch.device) -> Collator:
        """What makes the network's inputs, for a network on this device."""
        pad_token_id = self.tokenizer.pad_token_id
        return Collator(self.family, pad_token_id, self.image_processor, pinned=device.type == "cuda")

    def require_length(self, length: int) -> None:
        """Refuse data.max_length = `length` if the network has fewer positions than the padded length.

        Raises:
            SettingsError: the network has fewer positions.
        """
        needed = length if self.packs else padded(length)
        if needed > self.max_length:
            most = next(fits for fits in range(self.max_length, 0, -1) if self.packs or padded(fits) <= self.max_length)
            why = f", which are padded to {needed}" if needed > length else ""
            raise SettingsError(
                f"data.max_length = {length}{why}, but {self.name} has positions for {self.max_length} tokens: give at "
                f"most {most}"
            )


def open_pretrained(settings: ModelSettings, max_image_mib: int = MAX_IMAGE_MIB) -> PretrainedModel:
    """Read the configuration and tokenizer of a pretrained model.

    Args:
        settings: [model].
        max_image_mib: data.max_image_mib.

    Raises:
        SettingsError: no name is given, or the family cannot start from this model.
        ModelError: the model does not exist, transformers rejects its config.json, the family is not supported, it has
            no fast tokenizer, a lower-case tokenizer has a cased vocabulary, the image processor is missing although
            page images are used, or a package is missing.
    """
    from layoutner.models.network import open_config, require_packages

    name = checkpoint_name(settings)
    family, config = open_config(settings)
    require_packages(family)
    tokenizer = open_tokenizer(name, family, config)
    _require_case(name, tokenizer)
    pages = open_pages(name, family, config, settings.images == "use", max_image_mib)
    return PretrainedModel(name, family, config, tokenizer, pages)


def open_pages(name: str, family: str, config: Any, use: bool, max_image_mib: int = MAX_IMAGE_MIB) -> PageImages | None:
    """The image processor of a pretrained model; None if the network does not use page images.

    Args:
        use: whether model.images is "use".
        max_image_mib: data.max_image_mib.

    Raises:
        SettingsError: `use` is false, and the network needs page images.
        ModelError: the image processor is missing or its size is not the network's, or the network was made without
            page images.
    """
    row = FAMILIES[family]
    if row.image is None or (row.image_optional and not use):
        return None
    if not use:
        raise SettingsError(f"model.images = ignore: {family} cannot run without page images; layoutlmv3 can")
    otherwise = "; set model.images = ignore to run without page images" if row.image_optional else ""
    if not getattr(config, "visual_embed", True):
        raise ModelError(f"{name}: was trained without page images (visual_embed = false in config.json){otherwise}")
    from transformers import AutoImageProcessor

    try:
        # Always use the PIL backend, so that pixels are the same whatever packages are installed.
        processor = AutoImageProcessor.from_pretrained(name, backend="pil", apply_ocr=False, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(f"{name}: its image processor cannot be opened: {first_line(error)}{otherwise}") from None
    size = (processor.size.height, processor.size.width)
    if hasattr(config, "input_size") and size != (config.input_size, config.input_size):
        raise ModelError(
            f"{name}: its image processor makes {size[0]} x {size[1]} pixels, its network needs {config.input_size} x "
            f"{config.input_size}: they come from different checkpoints"
        )
    return PageImages(processor, max_image_mib)


def open_tokenizer(name: str, family: str, config: Any) -> Any:
    """The fast tokenizer of a pretrained model.

    Args:
        config: configuration of the network.

    Raises:
        ModelError: there is no vocabulary (transformers then creates an empty tokenizer, for which every word is
            unknown), the tokenizer is not fast, it has no padding token or another one than the network, or it has more
            tokens than the network has embeddings.
    """
    vocab_size = int(config.vocab_size)
    try:
        options = dict(FAMILIES[family].tokenizer_options)
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(f"{name}: its tokenizer cannot be opened: {_why_not_opened(error)}") from None
    if len(tokenizer) <= len(_added_tokens(tokenizer)):
        raise ModelError(f"{name}: its tokenizer has no vocabulary: no tokenizer.json, vocab.txt or similar file")
    if not tokenizer.is_fast:
        raise ModelError(f"{name}: has no fast tokenizer, which is needed to align words with sub-words")
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{name}: its tokenizer has no padding token, which is needed to batch windows")
    if len(tokenizer) > vocab_size:
        raise ModelError(
            f"{name}: its tokenizer has {len(tokenizer)} tokens and its network embeddings for {vocab_size}: "
            "they come from different checkpoints"
        )
    if FAMILIES[family].positions_after_padding and tokenizer.pad_token_id != config.pad_token_id:
        raise ModelError(
            f"{name}: its tokenizer pads with token {tokenizer.pad_token_id} and its network with "
            f"{config.pad_token_id}, which its position ids depend on: they come from different checkpoints"
        )
    if ("add_prefix_space", True) in FAMILIES[family].tokenizer_options:
        _put_space_before_words(tokenizer)
    return tokenizer


def _why_not_opened(error: Exception) -> str:
    """Message for a tokenizer that transformers cannot open.

    If transformers cannot read a sentencepiece model, it tries tiktoken, and its error message is about tiktoken.
    """
    said = first_line(error)
    if "tiktoken" not in said and ".model" not in said:
        return said
    if is_sentencepiece_available() and is_protobuf_available():
        return "its sentencepiece model is damaged; download the checkpoint again"
    return "it is a sentencepiece model, which needs a package to be read: pip install sentencepiece protobuf"


def _added_tokens(tokenizer: Any) -> set[str]:
    """Tokens that are not part of the sub-word vocabulary: special tokens and added tokens."""
    return {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}


def _require_case(name: str, tokenizer: Any) -> None:
    """Refuse a tokenizer that lower-cases text although its vocabulary is cased.

    For an old model with vocab.txt but without tokenizer_config.json, transformers creates a lower-case BERT tokenizer.
    Only WordPiece tokenizers are checked; other kinds always come with their own configuration.
    """
    backend = tokenizer.backend_tokenizer
    normalizer = backend.normalizer
    if not isinstance(backend.model, WordPiece) or normalizer is None or "A" in normalizer.normalize_str("A"):
        return
    added = _added_tokens(tokenizer)
    capitals = [token for token in tokenizer.get_vocab() if token != token.lower() and token not in added]
    if len(capitals) > STRAY_CAPITALS * len(tokenizer):
        raise ModelError(
            f"{name}: its tokenizer makes everything lower case, and {len(capitals)} of the {len(tokenizer)} tokens of "
            f"its vocabulary have capitals, such as {min(capitals)!r}: a cased checkpoint whose tokenizer_config.json "
            'is missing or wrong; set {"do_lower_case": false} in it'
        )


def _put_space_before_words(tokenizer: Any) -> None:
    """Set add_prefix_space in the pre-tokenizer. Tokenizers of the generic class (ModernBERT) ignore the option."""
    first = tokenizer.backend_tokenizer.pre_tokenizer
    parts: Any = first if isinstance(first, pre_tokenizers.Sequence) else [first]
    for part in parts:
        if isinstance(part, pre_tokenizers.ByteLevel):
            part.add_prefix_space = True


def build(
    pretrained: PretrainedModel,
    tags: list[str],
    dropout: float | None,
    dropout_masks: Literal["rank-free", "torch"] = "rank-free",
    attention: Attention = "auto",
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """Build a token classifier from the pretrained weights, with one output per tag.

    Outputs of tags that the pretrained head has too are copied by name; the others are newly initialised. A log line
    reports it.

    Args:
        tags: id -> tag.
        dropout: replaces every dropout probability of the network; None keeps those of the pretrained model.
        dropout_masks: settings.model.dropout_masks. With "rank-free", training needs `models.dropout.masks_from`.
        attention: settings.model.attention.
        gradient_checkpointing: settings.model.gradient_checkpointing.

    Raises:
        SettingsError: see `new_network`.
        ModelError: weights are missing, left over or have another shape; the message lists them. Exceptions are the
            pooler, a new head and, if a BERT becomes a LayoutLM, the layout embeddings.
    """
    from layoutner.models.network import new_network

    adapted = pretrained.family != pretrained.config.model_type
    sees_images = pretrained.image_processor is not None
    model: Any = new_network(
        pretrained.family,
        pretrained.config,
        tags,
        dropout,
        dropout_masks,
        sees_images,
        attention,
        gradient_checkpointing,
    )
    its_tags = [pretrained.config.id2label.get(index) for index in range(pretrained.config.num_labels)]
    shares_tags = not set(tags).isdisjoint(its_tags)
    is_classifier = any(name.endswith("ForTokenClassification") for name in pretrained.config.architectures or ())
    kept_head = FAMILIES[pretrained.family].kept_head
    trained, missing = _load(
        AutoModelForTokenClassification if kept_head or shares_tags else AutoModel,
        pretrained,
        # If the configuration declares a token classification head, its weights must exist.
        new=("pooler.",) if shares_tags and is_classifier else HEADS,
    )
    for part in kept_head:
        getattr(model, part).load_state_dict(getattr(trained, part).state_dict())
    into = getattr(model, model.base_model_prefix)
    report = into.load_state_dict(trained.base_model.state_dict(), strict=False)
    layout = tuple(f"embeddings.{axis}_position_embeddings." for axis in "xyhw")
    # BERT's token classifier has no pooler; LayoutLM's has one but does not use it.
    _require_none(pretrained.name, "missing", report.missing_keys, ("pooler.", *layout) if adapted else ("pooler.",))
    _require_none(pretrained.name, "left over", report.unexpected_keys, HEADS)
    if adapted:
        init_layout_tables(into.embeddings)
    head = f"new, for {len(tags)} tags"
    if shares_tags and not any(key.startswith("classifier.") for key in missing):
        head = carry_over(trained.classifier, its_tags, model.classifier, tags, pretrained.name)
    logger.info("head: %s", head)
    return model  # type: ignore[no-any-return]


def _load(loader: Any, pretrained: PretrainedModel, new: tuple[str, ...]) -> tuple[Any, set[str]]:
    """from_pretrained with errors where transformers only warns.

    Returns:
        The network, and the names of its weights that were missing from the pretrained model.
    """
    try:
        model, report = loader.from_pretrained(
            pretrained.name,
            config=pretrained.config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # reported below, with their names
            output_loading_info=True,
            # The published weights for run_seq_labeling.py, and those that it saved, use the prefix "bert.".
            key_mapping={r"^bert\.": "layoutlm."} if pretrained.config.model_type == "layoutlm" else None,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{pretrained.name}: its weights cannot be loaded: {first_line(error)}") from None
    except UnpicklingError:  # torch's message suggests an unsafe load
        raise ModelError(
            f"{pretrained.name}: its weights cannot be loaded: its pytorch_model.bin is damaged, or holds more than "
            "weights, possibly code; use a checkpoint with a model.safetensors"
        ) from None
    _require_none(pretrained.name, "missing", report["missing_keys"], new)
    _require_none(pretrained.name, "left over", report["unexpected_keys"], HEADS)
    _require_none(pretrained.name, "of another shape", [str(key) for key in report["mismatched_keys"]], ())
    return model, set(report["missing_keys"])


def _require_none(name: str, what: str, keys: Iterable[str], allowed: tuple[str, ...]) -> None:
    known = [f".{part}" for part in (*allowed, *CONSTANTS)]
    keys = sorted(key for key in keys if not any(part in f".{key}" for part in known))
    if keys:
        raise ModelError(
            f"{name}: {len(keys)} weights are {what}, so this would not be the pretrained network: "
            f"{', '.join(keys[:10])}{', ...' if len(keys) > 10 else ''}"
        )
