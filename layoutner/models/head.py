"""Initialise a new classification head from a trained one that shares some of its tags."""

import torch
from torch import nn

LISTED = 10  # maximum number of tags in a message


@torch.no_grad()
def carry_over(old: nn.Module, old_tags: list[str], new: nn.Module, tags: list[str], name: str) -> str:
    """Copy the outputs of shared tags from a trained head to a new one.

    Args:
        old, old_tags: the trained head, and the tag of each output.
        new, tags: the head to initialise, and the tag of each output.
        name: name of the pretrained model, for the message.

    Returns:
        A message: how many tags were kept, added and dropped.
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
        # LayoutLMv3's head has a second layer, after a tanh, if there are 10 tags or more. Treat tanh as the identity:
        # it is close to it for typical activations, so predictions hardly change.
        how = " (with a different number of layers: its initial predictions are close to the trained head's, not equal)"
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
