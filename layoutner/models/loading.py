"""A checkpoint is opened, and becomes a token classifier of its family."""

import copy
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from tokenizers.models import WordPiece
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForTokenClassification,
    AutoTokenizer,
    LayoutLMConfig,
    PretrainedConfig,
)
from transformers.utils import is_detectron2_available, is_protobuf_available, is_sentencepiece_available

from layoutner.corpus.batches import padded
from layoutner.corpus.pixels import PageImages
from layoutner.errors import ModelError, SettingsError, first_line
from layoutner.models.families import FAMILIES, accept_fp32, untrained
from layoutner.models.head import carry_over
from layoutner.models.source import checkpoint_name
from layoutner.settings.data import MAX_IMAGE_MIB
from layoutner.settings.tree import ModelSettings

logger = logging.getLogger(__name__)

# Size of new layout tables against the word embeddings they are added to (both as standard deviation per element):
# six of them are summed, and at 1 the text model would be drowned.
LAYOUT_SCALE = 0.1

# Share of a lower-case vocabulary that may have capitals, as words that somebody has put into its vocab.txt.
STRAY_CAPITALS = 0.01

# Weights that a checkpoint may lack or have left over: the heads of other tasks, the pooler that a token classifier has
# not, and constants that older versions of transformers saved or did not save.
HEADS = ("classifier.", "cls.", "lm_head.", "qa_outputs.", "pooler.", "head.", "decoder.")
CONSTANTS = ("embeddings.position_ids", "visual_bbox", "inv_freq", "num_batches_tracked")

DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "classifier_dropout_prob",
    "embedding_dropout",
    "attention_dropout",
    "mlp_dropout",
)


@dataclass(frozen=True)
class PretrainedModel:
    """A checkpoint looked at, but not loaded: what is needed to cut documents into windows."""

    name: str
    family: str  # the family to build
    config: Any  # transformers configuration of the checkpoint as it is
    tokenizer: Any  # fast tokenizer
    image_processor: PageImages | None = None  # None where the network does not see page images

    @property
    def max_length(self) -> int:
        """Longest window, in tokens."""
        first = int(self.config.pad_token_id) + 1 if FAMILIES[self.family].positions_after_padding else 0
        return int(self.config.max_position_embeddings) - first

    def require_length(self, length: int) -> None:
        """Refuse windows of data.max_length = `length` tokens where the network has no positions for them.

        Raises:
            SettingsError: it has fewer.
        """
        if padded(length) > self.max_length:
            raise SettingsError(
                f"data.max_length = {length}, but {self.name} has positions for {self.max_length} tokens, and a "
                f"forward is a multiple of 8 long: give at most {self.max_length // 8 * 8}"
            )


def open_pretrained(settings: ModelSettings, max_image_mib: int = MAX_IMAGE_MIB) -> PretrainedModel:
    """Read a checkpoint's configuration and tokenizer.

    Args:
        settings: which, and what of it is used.
        max_image_mib: data.max_image_mib.

    Raises:
        SettingsError: no name, or a family that cannot start from this checkpoint.
        ModelError: nothing there, a config.json that transformers does not take, a family that is not supported, no
            fast tokenizer or a lower-case one of a cased vocabulary, no image processor where page images are seen, a
            package that is missing.
    """
    name = checkpoint_name(settings)
    try:
        # False, here and below: by itself transformers asks on the terminal whether a checkpoint may run its code.
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model.name_or_path = {name}: cannot be opened: {first_line(error)}") from None
    except (AttributeError, TypeError, StrictDataclassError) as error:
        why = " ".join(str(error).split())
        raise ModelError(
            f"model.name_or_path = {name}: transformers {transformers.__version__} does not take {_refused(name)} in "
            f"its config.json: {why}; mend it there, or take the checkpoint anew from where it came"
        ) from None
    if config.model_type == "bert" and hasattr(config, "max_2d_position_embeddings"):
        config = _as_layoutlm(config)  # the LayoutLM of run_seq_labeling.py calls itself a bert
    family = settings.family or config.model_type
    if family not in FAMILIES:
        raise ModelError(
            f"model.name_or_path = {name}: is a {config.model_type!r}; layoutner builds {', '.join(FAMILIES)} "
            "(set model.family only if the checkpoint can start one)"
        )
    if family != config.model_type and (config.model_type, family) != ("bert", "layoutlm"):
        raise SettingsError(
            f"model.family = {family}, but {name} is a {config.model_type!r}: only a bert checkpoint can start "
            "another family, layoutlm"
        )
    require_packages(family)
    tokenizer = open_tokenizer(name, family, config)
    _require_case(name, tokenizer)
    pages = open_pages(name, family, config, settings.images == "use", max_image_mib)
    return PretrainedModel(name, family, config, tokenizer, pages)


def _refused(name: str) -> str:
    """The values of a config.json that transformers does not take, each tried by itself."""
    try:
        fields = PretrainedConfig.get_config_dict(name)[0]
        kind = fields.pop("model_type")
        AutoConfig.for_model(kind)
    except Exception:  # no object, or of no kind that there is; what is raised for it varies
        return "what stands"
    refused = []
    for key, value in fields.items():
        try:
            AutoConfig.for_model(kind, **{key: value})
        except Exception:  # as varied
            refused.append(f"{key} = {value!r}")
    return ", ".join(refused) or "a value"


def require_packages(family: str) -> None:
    """Refuse a family whose network is built on a package that is not installed.

    Raises:
        ModelError: layoutlmv2 without detectron2.
    """
    if family == "layoutlmv2" and not is_detectron2_available():
        raise ModelError(
            "layoutlmv2: its image backbone needs detectron2, which is not installed and which no package index holds: "
            "https://detectron2.readthedocs.io tells how to build it. layoutlmv3 needs no such package"
        )


def open_pages(name: str, family: str, config: Any, use: bool, max_image_mib: int = MAX_IMAGE_MIB) -> PageImages | None:
    """The image processor of a checkpoint whose network sees page images; None where it does not.

    Args:
        use: model.images = use.
        max_image_mib: data.max_image_mib.

    Raises:
        SettingsError: a network that sees images and must not.
        ModelError: no image processor there, one of another size than the network's, or a network without images.
    """
    row = FAMILIES[family]
    if row.image is None or (row.image_optional and not use):
        return None
    if not use:
        raise SettingsError(f"model.images = ignore: a {family} has no network without page images; layoutlmv3 has")
    otherwise = "; model.images = ignore does without page images" if row.image_optional else ""
    if not getattr(config, "visual_embed", True):
        raise ModelError(f"{name}: was made without page images (visual_embed = false){otherwise}")
    try:
        # The PIL one, whatever else is installed, so that pixels are the same everywhere.
        processor = AutoImageProcessor.from_pretrained(name, backend="pil", apply_ocr=False, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(f"{name}: its image processor cannot be opened: {first_line(error)}{otherwise}") from None
    size = (processor.size.height, processor.size.width)
    if hasattr(config, "input_size") and size != (config.input_size, config.input_size):
        raise ModelError(
            f"{name}: its image processor makes {size[0]} x {size[1]} pixels, its network takes {config.input_size} x "
            f"{config.input_size}: they are not of one checkpoint"
        )
    return PageImages(processor, max_image_mib)


def open_tokenizer(name: str, family: str, config: Any) -> Any:
    """The fast tokenizer of a checkpoint.

    Args:
        config: the network's.

    Raises:
        ModelError: none there (transformers then makes an empty one, to which every word is unknown), not a fast one,
            no padding or another than the network's, or more tokens than the network has embeddings for.
    """
    vocab_size = int(config.vocab_size)
    try:
        options = dict(FAMILIES[family].tokenizer_options)
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(f"{name}: its tokenizer cannot be opened: {_why_not_opened(error)}") from None
    if len(tokenizer) <= len(_added_tokens(tokenizer)):
        raise ModelError(f"{name}: its tokenizer has no vocabulary (no tokenizer.json, vocab.txt or the like in it)")
    if not tokenizer.is_fast:
        raise ModelError(f"{name}: has no fast tokenizer, which aligning words needs")
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{name}: its tokenizer has no padding token, which batches need")
    if len(tokenizer) > vocab_size:
        raise ModelError(
            f"{name}: its tokenizer has {len(tokenizer)} tokens and its network embeddings for {vocab_size}: "
            "they are not of one checkpoint"
        )
    if FAMILIES[family].positions_after_padding and tokenizer.pad_token_id != config.pad_token_id:
        raise ModelError(
            f"{name}: its tokenizer pads with token {tokenizer.pad_token_id} and its network with "
            f"{config.pad_token_id}, behind which its positions start: they are not of one checkpoint"
        )
    if ("add_prefix_space", True) in FAMILIES[family].tokenizer_options:
        _put_space_before_words(tokenizer)
    return tokenizer


def _why_not_opened(error: Exception) -> str:
    """What to do about a tokenizer that transformers cannot open.

    Where a sentencepiece model cannot be read, transformers takes it for one of tiktoken, and complains of that.
    """
    said = first_line(error)
    if "tiktoken" not in said and ".model" not in said:
        return said
    if is_sentencepiece_available() and is_protobuf_available():
        return "its sentencepiece model is damaged; take the checkpoint anew from where it came"
    return "it is a sentencepiece model, which needs a package to be read: pip install sentencepiece protobuf"


def _added_tokens(tokenizer: Any) -> set[str]:
    """Tokens beside the vocabulary of sub-words: special ones, and what somebody has added."""
    return {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}


def _require_case(name: str, tokenizer: Any) -> None:
    """Refuse a tokenizer that lower-cases what its vocabulary has in capitals.

    Transformers makes one of an old checkpoint that has a vocab.txt and no tokenizer_config.json: BERT's lower-case
    unless that file says otherwise. Other kinds come with their own files.
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
            'is missing or wrong; write {"do_lower_case": false} into it'
        )


def _put_space_before_words(tokenizer: Any) -> None:
    """Tokenizers of no class of their own, as ModernBERT's, record add_prefix_space and do not act on it."""
    first = tokenizer.backend_tokenizer.pre_tokenizer
    parts: Any = first if isinstance(first, pre_tokenizers.Sequence) else [first]
    for part in parts:
        if isinstance(part, pre_tokenizers.ByteLevel):
            part.add_prefix_space = True


def build(pretrained: PretrainedModel, tags: list[str], dropout: float | None) -> nn.Module:
    """The token classifier: the checkpoint's weights, with a head of one output a tag.

    Outputs of tags that the checkpoint's head has too are kept, by name, whatever their places; others are new. What
    became of the head is logged.

    Args:
        tags: id -> tag.
        dropout: replaces every dropout probability of the network; None leaves the checkpoint's.

    Raises:
        ModelError: weights that are missing, left over or of another shape beyond the pooler and a new head (and,
            where a BERT starts a LayoutLM, the layout tables), each listed.
    """
    adapted = pretrained.family != pretrained.config.model_type
    config = _as_layoutlm(pretrained.config) if adapted else copy.deepcopy(pretrained.config)
    config.id2label = dict(enumerate(tags))
    config.label2id = {tag: index for index, tag in enumerate(tags)}
    model = AutoModelForTokenClassification.from_config(_with_dropout(config, dropout), dtype=torch.float32)
    its_tags = [pretrained.config.id2label.get(index) for index in range(pretrained.config.num_labels)]
    shares_tags = not set(tags).isdisjoint(its_tags)
    is_classifier = any(name.endswith("ForTokenClassification") for name in pretrained.config.architectures or ())
    kept_head = FAMILIES[pretrained.family].kept_head
    trained, missing = _load(
        AutoModelForTokenClassification if kept_head or shares_tags else AutoModel,
        pretrained,
        # A head that the configuration speaks of must be there.
        new=("pooler.",) if shares_tags and is_classifier else HEADS,
    )
    for part in kept_head:
        getattr(model, part).load_state_dict(getattr(trained, part).state_dict())
    into = getattr(model, model.base_model_prefix)
    report = into.load_state_dict(trained.base_model.state_dict(), strict=False)
    layout = tuple(f"embeddings.{axis}_position_embeddings." for axis in "xyhw")
    # BERT's token classifier has no pooler, LayoutLM's has one that it does not use.
    _require_none(pretrained.name, "missing", report.missing_keys, ("pooler.", *layout) if adapted else ("pooler.",))
    _require_none(pretrained.name, "left over", report.unexpected_keys, HEADS)
    if adapted:
        init_layout_tables(into.embeddings)
    has_head = shares_tags and not any(key.startswith("classifier.") for key in missing)
    logger.info(
        "head: %s",
        carry_over(trained.classifier, its_tags, model.classifier, tags, pretrained.name)
        if has_head
        else f"new, for {len(tags)} tags",
    )
    return _prepared(model, pretrained)


def _prepared(model: nn.Module, pretrained: PretrainedModel) -> nn.Module:
    """What gets no gradient is not trained: an optimizer would decay it, and ranks would wait for it."""
    accept_fp32(pretrained.family, model)
    for name in untrained(pretrained.family, model, sees_images=pretrained.image_processor is not None):
        model.get_parameter(name).requires_grad_(False)
    return model


def _as_layoutlm(config: Any) -> Any:
    fields = {key: value for key, value in config.to_dict().items() if key not in ("model_type", "architectures")}
    return LayoutLMConfig(**fields)


def _load(loader: Any, pretrained: PretrainedModel, new: tuple[str, ...]) -> tuple[Any, set[str]]:
    """from_pretrained that stops where transformers would only warn: (network, names of weights that are new in it)."""
    try:
        model, report = loader.from_pretrained(
            pretrained.name,
            config=pretrained.config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # said below, with their names
            output_loading_info=True,
            # So are the weights named that were published for run_seq_labeling.py, and those that it saved.
            key_mapping={r"^bert\.": "layoutlm."} if pretrained.config.model_type == "layoutlm" else None,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{pretrained.name}: its weights cannot be loaded: {first_line(error)}") from None
    except UnpicklingError:  # torch advises to read it all the same
        raise ModelError(
            f"{pretrained.name}: its weights cannot be loaded: its pytorch_model.bin is damaged, or holds more than "
            "weights, which could be code; take a checkpoint with a model.safetensors"
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
            f"{name}: {len(keys)} weights are {what}, so the network would not be the pretrained one: "
            f"{', '.join(keys[:10])}{', ...' if len(keys) > 10 else ''}"
        )


def _with_dropout(config: Any, dropout: float | None) -> Any:
    if dropout is not None:
        for key in DROPOUTS:
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
