"""A network's operations, against those that torch counts in a forward and backward."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from layoutner.corpus.batches import Batch, collate
from layoutner.corpus.windows import Window
from layoutner.models.families import FAMILIES, model_inputs
from layoutner.models.flops import NetworkFlops, matmul_peak, per_second
from layoutner.models.loading import build, open_pretrained
from layoutner.settings.tree import ModelSettings

TAGS = ["O", "B-X", "I-X"]


def window(tokens: int) -> Window:
    return Window(0, [7] * tokens, [(0, 0, 1, 1)] * tokens, [0] * tokens, [])


def counted(model: Any, family: str, batch: Batch) -> int:
    """By torch, in the forward alone."""
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**model_inputs(family, batch))
    return int(counter.get_total_flops())


# LayoutLM computes a pooler that nothing uses, and LiLT an attention over layout: not counted. torch counts the whole
# attention of ModernBERT's local layers; 16 tokens are inside their window.
@pytest.mark.parametrize(
    ("family", "most"),
    [("bert", 0), ("roberta", 0), ("xlm-roberta", 0), ("layoutlm", 0.01), ("modernbert", 0), ("lilt", 0.3)],
)
def test_the_operations_are_those_that_torch_counts(checkpoints: dict[str, Path], family: str, most: float) -> None:
    pretrained = open_pretrained(ModelSettings(name_or_path=str(checkpoints[family])))
    model = build(pretrained, TAGS, dropout=0.0, dropout_masks="torch").eval()
    flops = NetworkFlops.of(model, family, sees_images=False)
    for tokens in (16,) if family == "modernbert" else (16, 40):
        batch = collate([window(tokens)] * 2, pretrained.tokenizer.pad_token_id)
        forward = flops.of_windows(np.array([tokens, tokens])) / 3
        assert FAMILIES[family].image is None
        assert forward == pytest.approx(counted(model, family, batch), rel=most or 1e-12)


def test_windows_of_a_packed_row_attend_to_themselves_alone() -> None:
    flops = NetworkFlops(weights=10, hidden_size=4, layers=3, local_layers=2, sliding_window=5)
    # 3 x (2 x 10 x 10 tokens + 4 x 4 x (1 layer x (8 x 8 + 2 x 2) + 2 layers x (8 x 5 + 2 x 2)))
    assert flops.of_windows(np.array([8, 2])) == 3 * (200 + 16 * (68 + 88))
    with_image = NetworkFlops(weights=10, hidden_size=4, layers=1, visual_tokens=6)
    assert with_image.of_windows(np.array([8, 2])) == 3 * (2 * 10 * 22 + 16 * (14**2 + 8**2))


def test_the_peak_is_the_speed_of_a_matrix_product() -> None:
    assert 1e6 < matmul_peak(torch.device("cpu"), torch.float32) < 1e15
    assert (per_second(53.2e9), per_second(7.12e14)) == ("53.2 GFLOP/s", "712 TFLOP/s")
