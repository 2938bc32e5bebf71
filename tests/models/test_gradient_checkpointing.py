"""Gradient checkpointing: the same gradient from less memory, or refused."""

from pathlib import Path

import pytest
import torch

from layoutner.errors import SettingsError
from layoutner.models.dropout import masks_from
from layoutner.models.loading import build
from layoutner.models.sizes import Sample, count_network
from layoutner.planning.memory import activations
from layoutner.settings.tree import load
from tests.builders.families import opened

TAGS = ["O", "B-X", "I-X"]
HAVE = ["bert", "roberta", "xlm-roberta", "layoutlm", "lilt", "modernbert"]


def gradient(folder: Path, family: str, masks: str, checkpointing: bool) -> torch.Tensor:
    """The gradient of a micro-batch with dropout."""
    torch.manual_seed(0)
    network = build(opened(folder), TAGS, 0.1, masks, gradient_checkpointing=checkpointing).train()  # type: ignore[arg-type]
    sample = Sample.make(network, family, 2, 16, sees_images=False)
    torch.manual_seed(1)
    with masks_from(network, sample.keys):
        sample.loss(network).backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.mark.parametrize("masks", ["rank-free", "torch"])
@pytest.mark.parametrize("family", HAVE)
def test_the_gradient_is_the_same(family: str, masks: str, checkpoints: dict[str, Path]) -> None:
    plain, saving = (gradient(checkpoints[family], family, masks, on) for on in (False, True))
    assert float((saving - plain).norm() / plain.norm()) < 1e-6


@pytest.mark.parametrize("family", ["layoutlmv3", "bros"])
def test_a_network_without_it_is_refused(family: str, checkpoints: dict[str, Path]) -> None:
    with pytest.raises(SettingsError, match=f"model.gradient_checkpointing = true: transformers has none for {family}"):
        build(opened(checkpoints[family]), TAGS, 0.1, gradient_checkpointing=True)


def test_the_plan_counts_the_inputs_of_the_layers_and_one_layer(checkpoints: dict[str, Path]) -> None:
    model = {"name_or_path": str(checkpoints["layoutlm"])}
    plain, saving = (
        count_network(load(None, {"model": {**model, "gradient_checkpointing": on}, "precision": {"dtype": "fp32"}}), 5)
        for on in ("false", "true")
    )
    assert (plain.layer, plain.ends, plain.parameters) == (saving.layer, saving.ends, saving.parameters)
    tokens = 64
    kept = saving.layers * tokens * opened(checkpoints["layoutlm"]).config.hidden_size * 4
    spared = (plain.layers - 1) * plain.layer.at(tokens) - kept
    assert activations(plain, "fp32", 1, tokens) - activations(saving, "fp32", 1, tokens) == pytest.approx(
        spared, abs=1
    )
