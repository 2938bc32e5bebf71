"""What a trained head knows of some tags goes on in a new one."""

import torch
from torch import nn

LISTED = 10  # tags in a message, at most


@torch.no_grad()
def carry_over(old: nn.Module, old_tags: list[str], new: nn.Module, tags: list[str], name: str) -> str:
    """Copy what a trained head knows of the tags of a new one, and say what that is.

    Args:
        old, old_tags: the trained head, and the tag of each output.
        new, tags: the head to fill, and the tag of each output.
        name: of the checkpoint.
    """
    place = {tag: old_tags.index(tag) for tag in old_tags}
    kept = [tag for tag in tags if tag in place]
    (*before, trained), (*layers, output) = (
        [module for module in head.modules() if isinstance(module, nn.Linear)] for head in (old, new)
    )
    weight: torch.Tensor = trained.weight
    bias: torch.Tensor = trained.bias
    how = ""
    if len(before) == len(layers):
        for layer, its in zip(layers, before, strict=True):
            layer.load_state_dict(its.state_dict())
    else:
        # LayoutLMv3 has a second layer, with a tanh between, from 10 tags on. tanh is near the identity where a head
        # works, so answers hardly change if it is taken for that.
        how = " (as the head has another number of layers, its first answers are near the trained ones, not the same)"
        for layer in layers:
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)
        for its in reversed(before):
            weight, bias = weight @ its.weight, weight @ its.bias + bias
    here, there = [tags.index(tag) for tag in kept], [place[tag] for tag in kept]
    output.weight[here], output.bias[here] = weight[there], bias[there]
    parts = [f"{len(kept)} of {len(tags)} tags kept from {name}{how}"]
    for what, those in (
        ("added", [tag for tag in tags if tag not in place]),
        ("dropped", [tag for tag in place if tag not in tags]),
    ):
        parts += [f"{len(those)} {what} ({_some(those)})"] if those else []
    return ", ".join(parts)


def _some(tags: list[str]) -> str:
    return ", ".join(tags[:LISTED]) + (", ..." if len(tags) > LISTED else "")
