"""The number formats of parameters, and their groups for the optimizer."""

import re
from typing import Any

import torch
from torch import nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

LAYER = re.compile(r"\.layers?\.(\d+)\.")
HEAD = re.compile(r"(^|\.)(classifier|head|final_norm|pooler)\.")


def decay_groups(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0, matrices: bool = False
) -> list[dict[str, Any]]:
    """Optimizer parameter groups: no weight decay for biases and LayerNorm weights, `weight_decay` for the rest.

    Each group also has `has_trust_ratio`, whether LAMB and LARS give its parameters a trust ratio (those with weight
    decay), and `lr_scale`, the factor of its learning rate: layer_decay^(D - depth). The head has depth D, layer n
    depth n + 1, and the embeddings depth 0 (BEiT, arXiv:2106.08254). With `matrices`, the matrices of the layers are
    in groups of their own, which have `is_matrix`.
    """
    norms = {id(module.weight) for module in model.modules() if isinstance(module, nn.LayerNorm)}
    depths = {name: _depth(name) for name, _ in model.named_parameters()}
    top = max((depth for depth in depths.values() if depth is not None), default=0) + 1
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {(True, top, False): [], (False, top, False): []}
    for name, parameter in model.named_parameters():
        depth = depths[name] if layer_decay < 1 else None
        decays = not (name.endswith("bias") or id(parameter) in norms)
        is_matrix = matrices and decays and parameter.ndim == 2 and bool(depths[name])
        groups.setdefault((decays, top if depth is None else depth, is_matrix), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "has_trust_ratio": decays,
            "is_matrix": is_matrix,
            "lr_scale": layer_decay ** (top - depth),
        }
        for (decays, depth, is_matrix), parameters in groups.items()
    ]


def _depth(name: str) -> int | None:
    """Depth of a parameter in the network, counted from the embeddings, which have 0; None for the head."""
    if match := LAYER.search(f".{name}"):
        return int(match[1]) + 1
    return None if HEAD.search(name) else 0
