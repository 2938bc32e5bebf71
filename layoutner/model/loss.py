"""The token-exact loss.

The loss of an optimizer step is L = (1/N) sum over its N labelled words of the cross-entropy, over all
windows of all micro-batches of all ranks. Its gradient is G = (1/N) sum_r sum_m grad S_rm, where S_rm is the
summed cross-entropy of micro-batch m on rank r. DeepSpeed averages over R ranks, so what it arrives at from
backward losses l_rm is (1/R) sum_r sum_m grad l_rm, provided that it does not also divide by the number of
accumulation steps. With l_rm = S_rm x R / N that is G exactly, however unequal the micro-batches are. The
mean of micro-batch means, which DeepSpeed and transformers default to, is another number.
"""

import torch
from torch.nn import functional

from layoutner.data.windows import IGNORED


def summed_cross_entropy(logits_BTL: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Sum (not mean) of the cross-entropy over the labelled tokens, in fp32; a scalar.

    Args:
        logits_BTL: any floating type.
        labels_BT: label ids, IGNORED where a token is not labelled.
    """
    return functional.cross_entropy(
        logits_BTL.float().flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED, reduction="sum"
    )
