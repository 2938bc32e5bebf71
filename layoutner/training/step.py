"""One optimizer step: assign its windows to ranks and micro-batches, then forward, backward and update."""

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from layoutner.corpus.batches import Batch, assign_to_ranks, collate, step_windows
from layoutner.distributed.ranks import Ranks
from layoutner.engine.engine import Engine, Step
from layoutner.errors import TrainingDiverged
from layoutner.models.dropout import mask_keys, masks_from
from layoutner.models.families import model_inputs
from layoutner.training.plan import Plan


@dataclass(frozen=True)
class StepResult(Step):
    """The numbers of one optimizer step, the same on every rank: those of the update, and of its global batch."""

    loss: float  # mean over the labelled tokens of the global batch
    tokens: int  # of the global batch, without padding


def optimizer_step(plan: Plan, engine: Engine, step: int, ranks: Ranks) -> StepResult:
    """Compute the gradient of one global batch and update the weights. All ranks call it.

    Every rank knows the windows of the whole step, so the loss is divided by the weight of the global batch without
    any communication (see objectives/loss.py).

    Args:
        step: number of optimizer steps done before. The seed and this number determine the windows and all randomness.

    Raises:
        TrainingDiverged: on every rank: the loss or the gradient is not finite.
    """
    windows, seed, batch_plan = plan.windows["train"], plan.settings.run.seed, plan.batch
    epoch, place = divmod(step, math.ceil(len(windows) / batch_plan.global_batch_size))
    indices = step_windows(seed, epoch, place, len(windows), batch_plan.global_batch_size)
    total_weight = plan.loss.total_weight(windows, indices)
    lengths = windows.lengths
    packs, limit = plan.pretrained.packs, batch_plan.micro_batch_limit
    micro_batches = assign_to_ranks(indices, lengths, limit, ranks.size, packs)[ranks.rank]

    # What a network draws from torch depends on seed, step and rank alone, so a resumed run draws the same. With
    # model.dropout_masks = rank-free nothing is drawn.
    seed_generators((seed * 1_000_003 + step) * 4099 + ranks.rank)
    engine.train()
    summed_loss = torch.zeros((), device=ranks.device)
    for number, micro_batch in enumerate(micro_batches):
        with ranks.activity("local", f"reading the windows of step {step + 1}"):
            batch = collate([windows[index] for index in micro_batch], plan.pretrained.tokenizer.pad_token_id, packs)
            inputs = network_inputs(plan, batch, ranks)
        with masks_from(engine.module, mask_keys(seed, step, micro_batch, batch, ranks.device)):
            logits_BTL = engine.forward(inputs)
            summed = plan.loss.summed(logits_BTL, batch.labels_BT.to(ranks.device))
            engine.backward(summed * (ranks.size / total_weight), last=number == len(micro_batches) - 1)
        summed_loss += summed.detach()

    # Loss and gradient norm are the same on every rank, so either all ranks stop or none.
    loss = ranks.all_reduce_sum(float(summed_loss)) / total_weight
    _require_finite_loss(plan, loss, step, indices)
    outcome = engine.step(plan.schedule.deepspeed_position(step))
    if outcome.applied and not math.isfinite(outcome.grad_norm):
        raise TrainingDiverged(
            f"the gradient of optimizer step {step + 1} is {outcome.grad_norm} although its loss is {loss:g}: "
            "training stops, and run.resume = auto goes on from the last checkpoint. A lower optimizer.lr, more "
            "warm-up or clipping (optimizer.max_grad_norm) may help"
        )
    tokens = int(lengths[indices].sum())
    return StepResult(**vars(outcome), loss=loss, tokens=tokens)


def _require_finite_loss(plan: Plan, loss: float, step: int, indices: list[int]) -> None:
    """Stop before the update, so that the weights stay finite."""
    if math.isfinite(loss):
        return
    names = sorted({plan.corpus.train[plan.windows["train"].documents[index]].name for index in indices})
    raise TrainingDiverged(
        f"the loss of optimizer step {step + 1} is {loss}: training stops before the weights are corrupted. "
        "A lower optimizer.lr, more warm-up or precision.dtype = bf16 may help. "
        f"Windows: {', '.join(map(str, sorted(indices)[:20]))}. Documents: {', '.join(names[:20])}"
    )


def network_inputs(plan: Plan, batch: Batch, ranks: Ranks) -> dict[str, Any]:
    """The network's inputs for a batch, on this rank's device."""
    return model_inputs(plan.pretrained.family, batch, ranks.device, plan.pretrained.image_processor)


def seed_generators(seed: int) -> None:
    """Seed every generator that a network may draw from: Python's, NumPy's, and torch's on the CPU and on GPUs."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)  # it takes 32 bits
    torch.manual_seed(seed)
