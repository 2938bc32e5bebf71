"""The loss: the exact mean over the labelled tokens of the global batch.

The loss of an optimizer step is L = S/N. S is the sum of weighted cross-entropies over the labelled tokens of all
micro-batches on all ranks. N is the sum of the weights; without class weights, it is the number of labelled tokens.
The gradient is G = (1/N) sum_r sum_m grad S_rm, where S_rm is the part of S from micro-batch m on rank r. DeepSpeed
averages gradients over R ranks, so backward losses l_rm give (1/R) sum_r sum_m grad l_rm, if it does not also divide by
the number of gradient accumulation steps. With l_rm = S_rm x R / N this is exactly G, even if micro-batches have
different sizes. The mean of micro-batch means, the default of DeepSpeed and transformers, is a different number.

With weights w_c and a smoothing e over K tags, a token of tag y costs (1 - e) w_y (-log p_y) + (e/K) sum_c w_c (-log
p_c), and the mean still divides by the sum of w_y: the definition of torch.nn.functional.cross_entropy.

Evaluation uses no weights, no smoothing and one label per word. Its loss is the mean cross-entropy over words, so that
runs with different training losses can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn import functional

from layoutner.corpus.windows import IGNORED, Windows
from layoutner.settings.tree import LossSettings


@dataclass(frozen=True)
class Loss:
    """The training loss of a run."""

    weights: tuple[float, ...] | None = None  # by label id; None: every tag weighs 1
    smoothing: float = 0.0  # share of the target that is spread over all tags

    def describe(self, tags: Sequence[str]) -> str:
        """Label smoothing and class weights as text; empty for the plain cross-entropy."""
        parts = [f"label smoothing {self.smoothing:g}"] if self.smoothing else []
        if self.weights is not None:
            weights = ", ".join(f"{tag} {weight:.3g}" for tag, weight in zip(tags, self.weights, strict=True))
            parts.append(f"class weights (labelled tokens / (tags that occur x tokens of the tag)): {weights}")
        return "; ".join(parts)

    def total_weight(self, windows: Windows, indices: Sequence[int]) -> float:
        """N: the sum of the weights of the labelled tokens of some windows; without class weights, their number."""
        if self.weights is None:
            return int(windows.labelled[indices].sum())
        counts = windows.label_counts(len(self.weights), indices)
        return sum(weight * count for weight, count in zip(self.weights, counts, strict=True))

    def summed(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """S: the loss summed (not averaged) over the labelled tokens; an fp32 scalar.

        Args:
            logits: N x L or B x T x L, of any floating-point dtype.
            labels: N or B x T; label ids, IGNORED for unlabelled tokens; on the same device as the logits.
        """
        return functional.cross_entropy(
            logits.float().flatten(0, -2),
            labels.flatten(),
            weight=None if self.weights is None else _tensor(self.weights, logits.device),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.smoothing,
        )


@lru_cache(maxsize=8)
def _tensor(weights: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """The weights on a device. Kept, because a GPU is waited for each time they are copied to it."""
    return torch.tensor(weights, device=device)


def summed_cross_entropy(logits_BTL: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropy over the labelled tokens, without weights or smoothing; see `Loss.summed`."""
    return Loss().summed(logits_BTL, labels_BT)


def make_loss(settings: LossSettings, windows: Windows, labels: int) -> Loss:
    """Create the loss of a run.

    Args:
        windows: the training windows; their labelled tokens determine balanced class weights.
        labels: number of tags.
    """
    weights = balanced_weights(windows, labels) if settings.class_weights == "balanced" else None
    return Loss(weights, settings.label_smoothing)


def balanced_weights(windows: Windows, labels: int) -> tuple[float, ...]:
    """Weight of each tag c: N / (K n_c), for N labelled tokens, K tags that occur and n_c tokens of tag c.

    This is scikit-learn's class_weight="balanced". The mean weight over tokens is 1. A tag that never occurs has weight
    1, which only matters for label smoothing.
    """
    counts = windows.label_counts(labels)
    total, occurring = sum(counts), sum(count > 0 for count in counts)
    return tuple(total / (occurring * count) if count else 1.0 for count in counts)
