"""The loss of a step, its normaliser and its class weights, against torch and scikit-learn."""

import random

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy

from layoutner.corpus.batches import collate
from layoutner.corpus.windows import IGNORED, Window, Windows
from layoutner.objectives.loss import Loss, make_loss, summed_cross_entropy
from layoutner.settings.tree import LossSettings

TAGS = 7
NEVER = 5  # a tag of the scheme that no word has


def windows(seed: int) -> Windows:
    """12 windows of 2 to 40 tokens, a third of them without a label; tag 0 is the common one."""
    rng = random.Random(seed)
    found = []
    for number in range(12):
        length = rng.randrange(2, 41)
        ids = [rng.choice([IGNORED, 0, 0, 0, 1, 2, 3, 4, 6][: 1 if number % 3 == 2 else 9]) for _ in range(length)]
        found.append(Window(number, [1] * length, [(0, 0, 1, 1)] * length, ids, [(0, 0)]))
    return Windows(found)


def logits(labels_BT: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(*labels_BT.shape, TAGS, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_micro_batches_add_up_to_torch_s_mean_over_all(weights: str, smoothing: float) -> None:
    pages = windows(1)
    settings = LossSettings(class_weights=weights, label_smoothing=smoothing)
    loss = make_loss(settings, pages, TAGS)
    whole = collate(pages, 0).labels_BT
    truth_BTL = logits(whole)
    weight = None if loss.weights is None else torch.tensor(loss.weights, dtype=torch.float64)
    truth = cross_entropy(truth_BTL.flatten(0, 1), whole.flatten(), weight=weight, label_smoothing=smoothing)
    truth.backward()
    mine_BTL = truth_BTL.detach().clone().requires_grad_()
    total = loss.total_weight(pages, range(len(pages)))
    parts = 0.0
    for rows in (slice(0, 1), slice(1, 8), slice(8, 12)):  # the third window alone has no label
        part = loss.summed(mine_BTL[rows], whole[rows]) / total
        part.backward()
        parts += float(part.detach())
    assert parts == pytest.approx(float(truth.detach()), rel=1e-6)
    assert torch.allclose(mine_BTL.grad, truth_BTL.grad, rtol=1e-5, atol=1e-9)


def test_balanced_weights_are_scikit_learn_s() -> None:
    pages = windows(2)
    ids = [label for page in pages for label in page.labels if label != IGNORED]
    weights = make_loss(LossSettings(class_weights="balanced"), pages, TAGS).weights
    present = sorted(set(ids))
    assert NEVER not in present
    assert len(present) == TAGS - 1
    expected = compute_class_weight("balanced", classes=np.array(present), y=ids)
    assert [weights[label] for label in present] == pytest.approx(list(expected), rel=1e-12)
    assert weights[NEVER] == 1
    # The weights of the tokens have the mean 1, so a learning rate keeps its meaning.
    assert sum(weights[label] for label in ids) / len(ids) == pytest.approx(1, rel=1e-12)


def test_the_plain_loss_counts_labelled_tokens() -> None:
    pages = windows(3)
    loss = make_loss(LossSettings(), pages, TAGS)
    assert loss == Loss(None, 0.0)
    assert loss.total_weight(pages, range(len(pages))) == sum(
        label != IGNORED for page in pages for label in page.labels
    )
    assert loss.describe(["O"] * TAGS) == ""
    labels_BT = collate(pages, 0).labels_BT
    logits_BTL = logits(labels_BT)
    assert torch.equal(summed_cross_entropy(logits_BTL, labels_BT), loss.summed(logits_BTL, labels_BT))


def test_half_precision_logits_are_summed_in_fp32() -> None:
    labels_BT = torch.zeros(1, 4096, dtype=torch.long)
    logits_BTL = torch.zeros(1, 4096, 2, dtype=torch.bfloat16)
    # In bf16 the sum would stop growing: 8 bits hold no difference of log 2 beside 256.
    assert float(summed_cross_entropy(logits_BTL, labels_BT)) == pytest.approx(4096 * 0.693147, rel=1e-5)


def test_what_differs_from_the_plain_loss_is_said() -> None:
    loss = Loss((0.5, 2.0), 0.1)
    text = "label smoothing 0.1; class weights (labelled tokens / (tags that occur x tokens of the tag)): O 0.5, B-A 2"
    assert loss.describe(["O", "B-A"]) == text
