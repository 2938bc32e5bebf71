"""Sizes of a network that determine its memory: counted, not computed from formulas, so for every family."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from layoutner.corpus.batches import collate, to_device
from layoutner.corpus.windows import Window
from layoutner.errors import ModelError, first_line
from layoutner.models.attention import ATTENTION_DROPOUT, OWN_ATTENTION
from layoutner.models.dropout import MaskKeys, mask_keys, masks_from, set_probability
from layoutner.models.families import FAMILIES, model_inputs
from layoutner.models.network import new_network, open_config
from layoutner.models.parameters import DTYPES, decay_groups
from layoutner.planning.memory import Curve, Device, Network
from layoutner.settings.tree import Settings

LENGTHS = (4, 8, 16)  # tokens of the windows through which the curves are drawn: fewer than any sliding window
ROWS = 1000  # of the token table of the networks that compute: its size does not matter


def count_network(settings: Settings, labels: int, device: Device = "cuda") -> Network:
    """Count the sizes of the network of some settings, from its configuration alone. Takes a few seconds.

    Parameters are counted in a network on torch's meta device, which takes no memory. What autograd keeps for the
    backward is counted in the forward of networks with one and two layers of full width, on this CPU.

    Args:
        settings: [model] and [precision] are used.
        labels: number of tags.
        device: what will train. A GPU keeps neither the random bits of dropout nor, without dropout masks of our own,
            attention probabilities.

    Raises:
        SettingsError, ModelError: see `open_config`.
    """
    family, config = open_config(settings.model)
    sees_images = FAMILIES[family].image is not None and settings.model.images == "use"
    if settings.model.dropout is not None:
        set_probability(config, settings.model.dropout)
    tags, masks = [str(label) for label in range(labels)], settings.model.dropout_masks

    def network(config: Any, checkpointing: bool = False) -> Any:
        return new_network(family, config, tags, None, masks, sees_images, settings.model.attention, checkpointing)

    with torch.device("meta"):
        whole = network(config, settings.model.gradient_checkpointing)
    trained = [parameter.numel() for parameter in whole.parameters() if parameter.requires_grad]
    groups = decay_groups(whole, 0.0, matrices=True)

    def saved(layers: int) -> list[int]:
        shallow = copy.deepcopy(config)
        shallow.num_hidden_layers, shallow.vocab_size = layers, max(ROWS, (config.pad_token_id or 0) + 1)
        if getattr(config, "layer_types", None):
            shallow.layer_types = config.layer_types[:layers]
        in_kernel = masks == "torch" and family not in OWN_ATTENTION and settings.model.attention != "eager"
        if device == "cuda" and in_kernel:  # attention dropout, so that nothing of it is kept
            for name in ATTENTION_DROPOUT:
                if hasattr(shallow, name):
                    setattr(shallow, name, 0.0)
        model = network(shallow).to(DTYPES[settings.precision.dtype]).train()
        try:
            return [saved_bytes(model, family, tokens, sees_images, device) for tokens in LENGTHS]
        except (RuntimeError, ValueError, LookupError) as error:
            raise ModelError(
                f"{settings.model.name_or_path}: its config.json describes no network: {first_line(error)}"
            ) from None

    one, two = saved(1), saved(2)
    layer = [more - less for less, more in zip(one, two, strict=True)]
    return Network(
        parameters=sum(parameter.numel() for parameter in whole.parameters()),
        trainable=sum(trained),
        layers=whole.config.num_hidden_layers,
        intermediate_size=whole.config.intermediate_size,
        tensors=tuple(trained),
        matrices=sum(one.numel() for group in groups if group["is_matrix"] for one in group["params"]),
        checkpoint=_stream_size(whole.config) if settings.model.gradient_checkpointing else None,
        layer=Curve.through(LENGTHS, layer),
        ends=Curve.through(LENGTHS, [less - own for less, own in zip(one, layer, strict=True)]),
    )


def _stream_size(config: Any) -> int:
    """Elements per token between two layers. LiLT has a second, narrower stream for the layout."""
    layout = config.hidden_size // config.channel_shrink_ratio if hasattr(config, "channel_shrink_ratio") else 0
    return int(config.hidden_size + layout)


@dataclass(frozen=True)
class Sample:
    """A micro-batch of full windows that hold nothing."""

    inputs: dict[str, Any]  # of the network, with empty page images if it sees any
    labels_BT: torch.Tensor
    keys: MaskKeys

    @classmethod
    def make(cls, model: Any, family: str, windows: int, tokens: int, sees_images: bool) -> "Sample":
        """Windows of so many tokens each."""
        nothing = np.zeros((tokens, 4), np.int64)
        window = Window(0, nothing[:, 0], nothing, nothing[:, 0], nothing[:0, :2])
        batch = collate([window] * windows, pad_token_id=1, packed=FAMILIES[family].packs)
        inputs = model_inputs(family, batch)
        if sees_images:
            side = getattr(model.config, "input_size", 224)
            inputs[str(FAMILIES[family].image)] = torch.zeros(windows, 3, side, side)
        return cls(inputs, batch.labels_BT, mask_keys(0, 0, range(windows), batch))

    def loss(self, model: Any) -> torch.Tensor:
        """The mean loss, by a forward in training, within `masks_from` these keys."""
        logits_BTL = model(**self.inputs).logits
        return nn.functional.cross_entropy(logits_BTL.float().flatten(0, 1), self.labels_BT.flatten())

    def to(self, device: torch.device) -> "Sample":
        """The same on a device."""
        return Sample(to_device(self.inputs, device), self.labels_BT.to(device), self.keys.to(device))


def saved_bytes(model: nn.Module, family: str, tokens: int, sees_images: bool, device: Device) -> int:
    """Bytes that autograd keeps of a window of so many tokens, and its loss. Weights do not count."""
    sample = Sample.make(model, family, 1, tokens, sees_images)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    found: dict[int, torch.Tensor] = {}  # kept, so that no storage takes the place of another

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.untyped_storage()._cdata] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with masks_from(model, sample.keys), hooks:
        loss = sample.loss(model)
    del loss
    random_bits = torch.int16 if device == "cuda" else None
    kept = (one for storage, one in found.items() if storage not in weights and one.dtype != random_bits)
    return sum(one.untyped_storage().nbytes() for one in kept)
