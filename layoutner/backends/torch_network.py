"""The network of an export in torch, from its safetensors file."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForTokenClassification

from layoutner.backends.network import BROKEN
from layoutner.corpus.batches import to_device
from layoutner.errors import ModelError, first_line
from layoutner.models.attention import attention_options
from layoutner.models.families import FAMILIES, accept_fp32
from layoutner.models.network import require_packages


class TorchNetwork:
    """A network of transformers."""

    def __init__(self, folder: Path, family: str, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Load it.

        Args:
            folder: folder of the export.
            dtype: None keeps the dtype that the weights were trained in, so that scores are reproducible; on a CPU,
                fp16 becomes fp32.

        Raises:
            ModelError: the network cannot be loaded, or a package for it or weights are missing.
        """
        require_packages(family)
        try:
            model, report = AutoModelForTokenClassification.from_pretrained(
                folder,
                dtype=dtype or "auto",
                output_loading_info=True,
                use_safetensors=True,
                trust_remote_code=False,
                **attention_options(family),
            )
        except BROKEN as error:
            raise ModelError(f"{folder}: its network cannot be loaded: {first_line(error)}") from None
        if lost := sorted(name for name in report["missing_keys"] if "pooler" not in name):
            raise ModelError(
                f"{folder}: incomplete export: {len(lost)} weights are missing {lost[:10]}. Export the model again"
            )
        if device.type == "cpu" and model.dtype == torch.float16:
            model = model.float()
        accept_fp32(family, model)
        self.model = model.to(device).eval()
        self.config, self.packs, self._device = model.config, FAMILIES[family].packs, device

    def __call__(self, inputs: dict[str, Any]) -> torch.Tensor:
        """See `Network`."""
        logits: torch.Tensor = self.model(**to_device(inputs, self._device)).logits
        return logits
