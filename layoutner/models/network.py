"""The network of a pretrained model's configuration, before any weights are loaded."""

import copy
from typing import Any, Literal

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForTokenClassification, LayoutLMConfig, PretrainedConfig
from transformers.utils import is_detectron2_available

from layoutner.errors import ModelError, SettingsError, first_line
from layoutner.models.attention import OWN_ATTENTION, implementation
from layoutner.models.dropout import replace_dropout, set_probability
from layoutner.models.families import FAMILIES, accept_fp32, untrained
from layoutner.models.source import checkpoint_name
from layoutner.settings.tree import Attention, ModelSettings


def open_config(settings: ModelSettings) -> tuple[str, Any]:
    """The family to build, and the configuration of the pretrained model.

    Raises:
        SettingsError: no name is given, or the family cannot start from this model.
        ModelError: the model does not exist, transformers rejects its config.json, or the family is not supported.
    """
    name = checkpoint_name(settings)
    try:
        # Otherwise transformers asks on the terminal whether to run the model's own code.
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model.name_or_path = {name}: cannot be opened: {first_line(error)}") from None
    except (AttributeError, TypeError, StrictDataclassError) as error:
        why = " ".join(str(error).split())
        raise ModelError(
            f"model.name_or_path = {name}: transformers {transformers.__version__} does not take {_refused(name)} in "
            f"its config.json: {why}; fix it there, or download the checkpoint again"
        ) from None
    if config.model_type == "bert" and hasattr(config, "max_2d_position_embeddings"):
        config = _as_layoutlm(config)  # LayoutLM models of run_seq_labeling.py have model_type "bert"
    family = settings.family or config.model_type
    if family not in FAMILIES:
        raise ModelError(
            f"model.name_or_path = {name}: is a {config.model_type!r}; layoutner supports {', '.join(FAMILIES)} "
            "(set model.family only if the checkpoint can start one)"
        )
    if family != config.model_type and (config.model_type, family) != ("bert", "layoutlm"):
        raise SettingsError(
            f"model.family = {family}, but {name} is a {config.model_type!r}: the only change of family "
            "is from a bert checkpoint to layoutlm"
        )
    return family, config


def _refused(name: str) -> str:
    """The values of a config.json that transformers rejects, found by trying each one separately."""
    try:
        fields = PretrainedConfig.get_config_dict(name)[0]
        kind = fields.pop("model_type")
        AutoConfig.for_model(kind)
    except Exception:  # not an object, or an unknown model_type; the exceptions vary
        return "the model description"
    refused = []
    for key, value in fields.items():
        try:
            AutoConfig.for_model(kind, **{key: value})
        except Exception:  # the exceptions vary here too
            refused.append(f"{key} = {value!r}")
    return ", ".join(refused) or "a value"


def require_packages(family: str) -> None:
    """Refuse a family whose network needs a package that is not installed.

    Raises:
        ModelError: layoutlmv2 without detectron2.
    """
    if family == "layoutlmv2" and not is_detectron2_available():
        raise ModelError(
            "layoutlmv2 needs detectron2 for its image backbone, and it is not installed. It is on no package index: "
            "build it as https://detectron2.readthedocs.io describes, or use layoutlmv3, which does not need it"
        )


def new_network(
    family: str,
    config: Any,
    tags: list[str],
    dropout: float | None,
    dropout_masks: Literal["rank-free", "torch"],
    sees_images: bool,
    attention: Attention = "auto",
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """A token classifier with untrained weights. Parameters without a gradient are frozen: the optimizer would decay
    them, and ranks would wait for them.

    Args:
        config: configuration of the pretrained model. It is not changed.
        tags: id -> tag.
        dropout: replaces every dropout probability; None keeps those of the configuration.
        dropout_masks, attention, gradient_checkpointing: settings of [model].

    Raises:
        SettingsError: gradient_checkpointing in a network that has none.
        ModelError: the configuration describes no network, for example by a negative size, or a package is missing.
    """
    require_packages(family)
    config = _as_layoutlm(config) if family != config.model_type else copy.deepcopy(config)
    config.id2label = dict(enumerate(tags))
    config.label2id = {tag: index for index, tag in enumerate(tags)}
    if dropout is not None:
        set_probability(config, dropout)
    try:
        model: Any = AutoModelForTokenClassification.from_config(config, dtype=torch.float32)
    except (RuntimeError, ValueError, LookupError, AssertionError, ArithmeticError) as error:
        name = config.name_or_path or "the pretrained model"
        raise ModelError(f"{name}: its config.json describes no network: {first_line(error)}") from None
    if dropout_masks == "rank-free":
        replace_dropout(model)
    if family not in OWN_ATTENTION:
        model.set_attn_implementation(implementation(attention))
    accept_fp32(family, model)
    if gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise SettingsError(
                f"model.gradient_checkpointing = true: transformers has none for {family}; remove the setting"
            )
        old_name = model.gradient_checkpointing_enable
        getattr(model, "activation_checkpointing_enable", old_name)({"use_reentrant": False})
    for name in untrained(family, model, sees_images):
        model.get_parameter(name).requires_grad_(False)
    return model  # type: ignore[no-any-return]


def _as_layoutlm(config: Any) -> Any:
    fields = {key: value for key, value in config.to_dict().items() if key not in ("model_type", "architectures")}
    return LayoutLMConfig(**fields)
