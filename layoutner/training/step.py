"""One optimizer step: forward and backward of every micro-batch, then the update."""

import math
import random
from dataclasses import dataclass

import numpy
import torch

from layoutner.corpus.batches import to_device
from layoutner.distributed.ranks import Ranks
from layoutner.engine.engine import Engine, Step
from layoutner.errors import TrainingDiverged
from layoutner.files.arrays import Array
from layoutner.models.dropout import masks_from
from layoutner.training.global_batch import GlobalBatch
from layoutner.training.plan import Plan


@dataclass(frozen=True)
class StepResult(Step):
    """The numbers of one optimizer step, the same on every rank: those of the update, and of its global batch."""

    loss: float  # mean over the labelled tokens of the global batch
    lengths: Array  # tokens of each window of the global batch


def optimizer_step(plan: Plan, engine: Engine, batch: GlobalBatch, ranks: Ranks) -> StepResult:
    """Compute the gradient of one global batch and update the weights. All ranks call it.

    Every rank knows the windows of the whole step, so the loss is divided by the weight of the global batch without
    any communication (see objectives/loss.py). Until the last micro-batch has been given to the device, nothing waits
    for it.

    Raises:
        TrainingDiverged: on every rank: the loss or the gradient is not finite.
    """
    step, windows, clock = batch.step, plan.windows["train"], engine.clock

    # What a network draws from torch depends on seed, step and rank alone, so a resumed run draws the same. With
    # model.dropout_masks = rank-free nothing is drawn.
    seed_generators((plan.settings.run.seed * 1_000_003 + step) * 4099 + ranks.rank)
    engine.train()
    if plan.measures_gradient(step):
        engine.statistics.begin()
    summed_loss = torch.zeros((), device=ranks.device)
    last = len(batch.micro_batch_indices) - 1
    for number in range(last + 1):
        with ranks.activity("local", f"reading the windows of step {step + 1}"), clock.part("data"):
            micro_batch = next(batch.micro_batches)
        with masks_from(engine.module, micro_batch.keys.to(ranks.device, non_blocking=True)):
            with clock.part("forward"):
                logits_BTL = engine.forward(micro_batch.inputs)
                targets = to_device(micro_batch.targets, ranks.device)
                # The loss, and its conversion to fp32, of labelled tokens alone.
                summed = plan.loss.summed(logits_BTL.flatten(0, 1)[targets["places"]], targets["labels"])
            with clock.part("backward"):
                engine.backward(summed * (ranks.size / batch.total_weight), last=number == last)
                engine.statistics.add(len(batch.micro_batch_indices[number]))
        summed_loss += summed.detach()

    # Loss and gradient norm are the same on every rank, so either all ranks stop or none.
    with clock.part("communication"):
        loss = ranks.all_reduce_sum(float(summed_loss)) / batch.total_weight
    _require_finite_loss(plan, loss, step, batch.indices)
    with clock.part("optimizer"):
        outcome = engine.step(plan.lr(step), plan.schedule.deepspeed_position(step))
    if outcome.applied and not math.isfinite(outcome.grad_norm):
        raise TrainingDiverged(
            f"the gradient of optimizer step {step + 1} is {outcome.grad_norm} although its loss is {loss:g}: "
            "training stops, and run.resume = auto goes on from the last checkpoint. A lower optimizer.lr, more "
            "warm-up or clipping (optimizer.max_grad_norm) may help"
        )
    return StepResult(**vars(outcome), loss=loss, lengths=windows.lengths[batch.indices])


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


def seed_generators(seed: int) -> None:
    """Seed every generator that a network may draw from: Python's, NumPy's, and torch's on the CPU and on GPUs."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)  # it takes 32 bits
    torch.manual_seed(seed)
