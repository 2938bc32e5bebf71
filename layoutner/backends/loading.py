"""Load the network of an exported model with the backend that its files are for."""

from pathlib import Path

import torch

from layoutner.backends.network import Network
from layoutner.errors import ModelError
from layoutner.models.preprocessing import PREPROCESSING_FILE, Preprocessing


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
