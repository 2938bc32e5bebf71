"""The network of an exported model, whatever computes it."""

from typing import Any, Protocol

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

# Exceptions that transformers raises for damaged or edited files.
BROKEN = (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, SafetensorError, StrictDataclassError)


class Network(Protocol):
    """A loaded network. Threads may share it."""

    config: Any  # transformers configuration
    packs: bool  # whether it takes packed rows, see `corpus.batches`

    def __call__(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Logits, B x T x L, from the inputs that a `Collator` makes."""
