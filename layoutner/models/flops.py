"""Floating-point operations of a network, and how many of them a device does in a second."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from layoutner.files.arrays import Array
from layoutner.models.families import FAMILIES

# Measuring the peak: larger and larger matrices, until a product takes this long or has so many rows.
LONG_S = 0.02
LARGEST = 8192


@dataclass(frozen=True)
class NetworkFlops:
    """Operations of the matrix products of a network: its model FLOPs (Chowdhery et al. 2022, arXiv:2204.02311, B).

    A forward does 2 operations per token and weight of a linear layer. In the attention of each layer it does 4 h per
    pair of tokens that attend to each other, where h is the hidden size. A backward does twice as many. Padding and
    what is computed a second time do not count, nor do embeddings, norms, activations, image backbones, and what layout
    adds to the attention.
    """

    weights: int  # of linear layers that are trained; the others do not affect the logits, see `untrained`
    hidden_size: int
    layers: int
    local_layers: int = 0  # layers among them with a sliding window
    sliding_window: int = 0  # tokens that a token of those layers attends to
    visual_tokens: int = 0  # of each window, beside those of its text

    @classmethod
    def of(cls, model: nn.Module, family: str, sees_images: bool) -> "NetworkFlops":
        """Count them in a network that is whole, not partitioned by ZeRO 3."""
        config: Any = model.config
        visual_tokens = 0
        linear = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
        if FAMILIES[family].image is not None and sees_images:
            side = config.input_size // config.patch_size if family == "layoutlmv3" else 0
            visual_tokens = side**2 + 1 if side else config.image_feature_pool_shape[0] ** 2
        local = getattr(config, "layer_types", None) or []
        return cls(
            weights=sum(weight.numel() for weight in linear if weight.requires_grad),
            hidden_size=config.hidden_size,
            layers=config.num_hidden_layers,
            local_layers=sum(kind == "sliding_attention" for kind in local),
            sliding_window=2 * (getattr(config, "local_attention", 0) // 2) + 1,
            visual_tokens=visual_tokens,
        )

    def of_windows(self, lengths: Array) -> float:
        """Operations of a forward and backward of windows of these numbers of tokens."""
        tokens = np.asarray(lengths, np.float64) + self.visual_tokens
        pairs = (self.layers - self.local_layers) * (tokens**2).sum()
        pairs += self.local_layers * (tokens * np.minimum(tokens, self.sliding_window)).sum()
        return 3 * float(2 * self.weights * tokens.sum() + 4 * self.hidden_size * pairs)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a matrix product on this device: the best of several sizes, in a fraction of a second.

    All ranks may call it at the same time, as they compute at the same time. Call it before the device holds a network.
    """

    def seconds(size: int) -> float:
        one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        times = []
        for _ in range(3):  # the first also loads kernels
            begin = time.perf_counter()
            torch.mm(one, other)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - begin)
        return min(times)

    best, size, took = 0.0, 256, 0.0
    while size <= LARGEST and took < LONG_S:
        took = seconds(size)
        best = max(best, 2 * size**3 / took)
        size *= 2
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return best


def per_second(operations: float) -> str:
    """Operations a second as text, in GFLOP/s or TFLOP/s."""
    tera = operations >= 1e12
    return f"{operations / (1e12 if tera else 1e9):.3g} {'T' if tera else 'G'}FLOP/s"
