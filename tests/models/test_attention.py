"""Packed rows: every family that packs computes the same as in padded rows."""

import copy
import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from layoutner.corpus.batches import Batch, collate, to_device
from layoutner.corpus.windows import IGNORED, Window
from layoutner.errors import SettingsError
from layoutner.models.attention import implementation, require_attention
from layoutner.models.families import FAMILIES, model_inputs
from layoutner.models.loading import build
from layoutner.settings.tree import Attention, load
from tests.builders.families import opened

PACKS = [family for family, row in FAMILIES.items() if row.packs]
TAGS = ["O", "B-X", "I-X"]
LENGTHS = (200, 13, 77, 1, 150)


def windows(vocabulary: int) -> list[Window]:
    rng = random.Random(0)
    made = []
    for length in LENGTHS:
        boxes = [(x := rng.randrange(900), y := rng.randrange(900), x + 50, y + 20) for _ in range(length)]
        ids = [rng.randrange(5, vocabulary) for _ in range(length)]
        made.append(Window(0, ids, boxes, [rng.choice([IGNORED, 0, 1, 2]) for _ in range(length)], []))
    return made


def gradient(network: Any, family: str, batch: Batch, device: str = "cpu") -> tuple[list[torch.Tensor], torch.Tensor]:
    """Logits of each window, and the gradient of all parameters as one vector."""
    network.zero_grad()
    logits_BTL = network(**to_device(model_inputs(family, batch), device)).logits
    labels = batch.labels_BT.flatten().to(device)
    functional.cross_entropy(logits_BTL.float().flatten(0, 1), labels, ignore_index=IGNORED, reduction="sum").backward()
    trained = [p.grad.float().flatten() for p in network.parameters() if p.grad is not None]
    return [part.detach() for part in batch.of_windows(logits_BTL)], torch.cat(trained)


def networks(checkpoint: Any) -> tuple[Any, Any]:
    """The network as it is trained, and the same with transformers' own attention."""
    if checkpoint.family == "modernbert":
        checkpoint.config.sliding_window = 16  # shorter than the windows
    packed = build(checkpoint, TAGS, 0.0)
    padded = copy.deepcopy(packed)
    padded.set_attn_implementation("sdpa")
    assert packed.config._attn_implementation != padded.config._attn_implementation
    return packed, padded


@pytest.mark.parametrize("family", PACKS)
def test_packed_rows_have_the_logits_and_gradient_of_padded_rows(family: str, checkpoints: dict[str, Path]) -> None:
    checkpoint = opened(checkpoints[family])
    pad = checkpoint.tokenizer.pad_token_id
    some = windows(checkpoint.config.vocab_size)
    packed, padded = networks(checkpoint)
    found, its_gradient = gradient(packed, family, collate(some, pad, packed=True))
    expected, gradient_of_padded = gradient(padded, family, collate(some, pad))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert float((its_gradient - gradient_of_padded).norm() / gradient_of_padded.norm()) < 1e-6
    # The same network takes padded rows too.
    torch.testing.assert_close(gradient(packed, family, collate(some, pad))[1], gradient_of_padded)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash"])
@pytest.mark.parametrize("family", [*PACKS, "layoutlmv3"])
def test_every_kernel_computes_the_same(family: str, attention: Attention, checkpoints: dict[str, Path]) -> None:
    checkpoint = opened(checkpoints[family], images="ignore")
    batch = collate(windows(checkpoint.config.vocab_size), checkpoint.tokenizer.pad_token_id, checkpoint.packs)
    network = build(checkpoint, TAGS, 0.0, attention=attention).eval()
    assert network.config._attn_implementation == implementation(attention)
    _, found = gradient(network, family, batch)
    network.set_attn_implementation(implementation("auto"))
    _, expected = gradient(network, family, batch)
    assert float((found - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.parametrize(
    ("family", "model", "precision", "device", "said"),
    [
        ("lilt", {"attention": "sdpa"}, "fp32", "cpu", "sdpa: lilt computes its attention itself"),
        (
            "layoutlm",
            {"attention": "flash", "dropout": "0"},
            "fp32",
            "cuda",
            "fp16 or bf16, not cuda and fp32",
        ),
        ("layoutlm", {"attention": "flash", "dropout": "0"}, "bf16", "cpu", "needs a GPU and fp16 or bf16, not cpu"),
        ("layoutlm", {"attention": "flash"}, "bf16", "cuda", "has no dropout, and that of attention is 0.1"),
        ("layoutlmv3", {"attention": "flash", "dropout": "0"}, "bf16", "cuda", "layoutlmv3 adds to its attention"),
        ("layoutlm", {"attention": "flash", "dropout": "0"}, "bf16", "cuda", None),
        ("layoutlm", {"attention": "sdpa"}, "fp32", "cpu", "no kernel takes the masks"),
        ("layoutlm", {"attention": "sdpa", "dropout": "0"}, "fp32", "cpu", None),
        ("layoutlmv3", {"attention": "sdpa", "dropout_masks": "torch"}, "fp32", "cpu", None),
        ("lilt", {"attention": "eager"}, "fp32", "cpu", None),
    ],
)
def test_a_kernel_that_cannot_be_is_refused(
    family: str, model: dict[str, str], precision: str, device: str, said: str | None, checkpoints: dict[str, Path]
) -> None:
    settings = load(None, {"model": model, "precision": {"dtype": precision}})
    config = opened(checkpoints[family], images="ignore").config
    config.attention_probs_dropout_prob = 0.1
    refused = pytest.raises(SettingsError, match=said) if said else nullcontext()
    with refused:
        require_attention(settings, family, config, torch.device(device))


@pytest.mark.parametrize("family", PACKS)
def test_a_window_does_not_see_its_neighbours(family: str, checkpoints: dict[str, Path]) -> None:
    checkpoint = opened(checkpoints[family])
    pad = checkpoint.tokenizer.pad_token_id
    some = windows(checkpoint.config.vocab_size)
    network = build(checkpoint, TAGS, 0.0).eval()
    alone, _ = gradient(network, family, collate(some[2:3], pad, packed=True))
    among, _ = gradient(network, family, collate(some, pad, packed=True))
    torch.testing.assert_close(among[2], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", PACKS)
def test_packed_rows_on_a_gpu(family: str, dtype: torch.dtype, checkpoints: dict[str, Path]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    checkpoint = opened(checkpoints[family])
    pad = checkpoint.tokenizer.pad_token_id
    some = windows(checkpoint.config.vocab_size)
    packed, padded = (network.to("cuda", dtype) for network in networks(checkpoint))
    _, found = gradient(packed, family, collate(some, pad, packed=True), "cuda")
    _, expected = gradient(padded, family, collate(some, pad), "cuda")
    bound = 1e-5 if dtype == torch.float32 else 3e-2  # kernels of half precision add in another order
    assert float((found - expected).norm() / expected.norm()) < bound
