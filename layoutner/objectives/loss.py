"""The token-exact loss.

The loss of an optimizer step is L = S/N. S sums, over the labelled tokens of all windows of all micro-batches of all
ranks, the cross-entropy of the token, times the weight of its tag; N sums the weights, so without weights it is the
number of labelled tokens. Its gradient is G = (1/N) sum_r sum_m grad S_rm, where S_rm is the sum over micro-batch m
on rank r. DeepSpeed averages over R ranks, so what it arrives at from backward losses l_rm is
(1/R) sum_r sum_m grad l_rm, provided that it does not also divide by the number of accumulation steps. With
l_rm = S_rm x R / N that is G exactly, however unequal the micro-batches are. The mean of micro-batch means, which
DeepSpeed and transformers default to, is another number.

With weights w_c and a smoothing e over K tags, a token of tag y costs (1 - e) w_y (-log p_y) + (e/K) sum_c w_c (-log
p_c), and the mean still divides by the sum of w_y: the definition of torch.nn.functional.cross_entropy.

Evaluation has neither weights nor smoothing, and one label a word: its loss is the mean cross-entropy of the words,
so that runs compare whatever they optimise.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from layoutner.corpus.windows import IGNORED, Window
from layoutner.settings.tree import LossSettings


@dataclass(frozen=True)
class Loss:
    """What a run optimises."""

    weights: tuple[float, ...] | None = None  # by label id; None: every tag weighs 1
    smoothing: float = 0.0  # share of the target that is spread over all tags

    def describe(self, tags: Sequence[str]) -> str:
        """What differs from the plain cross-entropy, with the weight of each tag; empty where nothing does."""
        parts = [f"label smoothing {self.smoothing:g}"] if self.smoothing else []
        if self.weights is not None:
            weights = ", ".join(f"{tag} {weight:.3g}" for tag, weight in zip(tags, self.weights, strict=True))
            parts.append(f"class weights (labelled tokens / (tags that occur x tokens of the tag)): {weights}")
        return "; ".join(parts)

    def total_weight(self, windows: Iterable[Window]) -> float:
        """N: the sum of the weights of the labelled tokens; their number where there are no weights."""
        if self.weights is None:
            return sum(window.labelled for window in windows)
        counts = _count(windows)
        return sum(self.weights[label] * count for label, count in sorted(counts.items()))

    def summed(self, logits_BTL: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
        """S: the sum (not mean) over the labelled tokens, in fp32; a scalar.

        Args:
            logits_BTL: any floating type.
            labels_BT: label ids, IGNORED where a token is not labelled; on the device of the logits.
        """
        return functional.cross_entropy(
            logits_BTL.float().flatten(0, 1),
            labels_BT.flatten(),
            weight=None if self.weights is None else torch.tensor(self.weights, device=logits_BTL.device),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.smoothing,
        )


def summed_cross_entropy(logits_BTL: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropy over the labelled tokens, without weights or smoothing; see `Loss.summed`."""
    return Loss().summed(logits_BTL, labels_BT)


def make_loss(settings: LossSettings, windows: Iterable[Window], labels: int) -> Loss:
    """The loss of a run.

    Args:
        windows: the training windows, whose labelled tokens are counted for balanced weights.
        labels: number of tags.
    """
    weights = balanced_weights(windows, labels) if settings.class_weights == "balanced" else None
    return Loss(weights, settings.label_smoothing)


def balanced_weights(windows: Iterable[Window], labels: int) -> tuple[float, ...]:
    """Weight of each tag: N / (K n_c) for N labelled tokens, K different tags among them, n_c of tag c.

    So does scikit-learn's class_weight="balanced". The weights of the tokens have the mean 1, and 1 is the weight of
    a tag that never occurs, which matters to smoothing alone.
    """
    counts = _count(windows)
    total = sum(counts.values())
    return tuple(total / (len(counts) * counts[label]) if counts[label] else 1.0 for label in range(labels))


def _count(windows: Iterable[Window]) -> Counter[int]:
    """Label id -> labelled tokens."""
    counts = Counter(label for window in windows for label in window.labels)
    del counts[IGNORED]
    return counts
