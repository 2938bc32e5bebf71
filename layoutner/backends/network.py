"""The network of an exported model, whatever computes it."""

from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from layoutner.errors import ModelError
from layoutner.models.preprocessing import PREPROCESSING_FILE, Preprocessing

# Exceptions that transformers raises for damaged or edited files.
BROKEN = (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, SafetensorError, StrictDataclassError)


class Network(Protocol):
    """A loaded network. Threads may share it."""

    config: Any  # transformers configuration
    packs: bool  # whether it takes packed rows, see `corpus.batches`

    def __call__(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Logits, B x T x L, from the inputs that a `Collator` makes."""


def open_network(folder: Path, preprocessing: Preprocessing, device: torch.device) -> Network:
    """Load the network of an export: its ONNX graph if layoutner.json lists one, else its weights with torch.

    Raises:
        ModelError: a file is missing, damaged, or of another model.
        SettingsError: the package onnxruntime is missing.
    """
    network: Network
    if preprocessing.onnx:
        from layoutner.backends.onnx_network import OnnxNetwork

        network = OnnxNetwork(folder, preprocessing, device)
    else:
        from layoutner.backends.torch_network import TorchNetwork

        network = TorchNetwork(folder, preprocessing.family, device)
    tags = list(preprocessing.labels)
    names = [network.config.id2label.get(index) for index in range(network.config.num_labels)]
    if names != tags:
        raise ModelError(
            f"{folder}: modified export: its config.json has the labels {names}, its {PREPROCESSING_FILE} {tags}. "
            "Export the model again"
        )
    return network
