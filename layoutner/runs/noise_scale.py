"""Measure how much of a step's gradient is noise, without training, and say what that means for the global batch."""

import logging
import math
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from layoutner.distributed.ranks import Ranks
from layoutner.errors import CheckpointError, SettingsError, TrainingDiverged
from layoutner.files.arrays import Array
from layoutner.runs.training_run import agreed_plan, start_engine
from layoutner.settings.tree import Settings
from layoutner.training.checkpoint import CheckpointReader
from layoutner.training.checkpoint_files import complete_checkpoints, read_record, verify
from layoutner.training.global_batch import global_batches
from layoutner.training.plan import Plan
from layoutner.training.step import optimizer_step

logger = logging.getLogger(__name__)

RESAMPLES = 10_000  # of the bootstrap
SKIPPED = 50  # steps that fp16 may skip until its loss scale is found


@dataclass(frozen=True)
class NoiseScale:
    """The gradient noise scale of a network at one point of its training; see engine/statistics.py."""

    window_variances: Array  # S of each step
    squared_norms: Array  # |G|^2 of each step
    global_batch_size: int

    @property
    def windows(self) -> float:
        """Mean S / mean |G|^2; inf if the mean of |G|^2 is not above 0."""
        return float(_ratio(self.window_variances.mean(), self.squared_norms.mean()))

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of `windows`: percentiles of the bootstrap over the steps."""
        steps = len(self.window_variances)
        picked = np.random.default_rng(0).integers(steps, size=(RESAMPLES, steps))
        ratios = _ratio(self.window_variances[picked].mean(1), self.squared_norms[picked].mean(1))
        low, high = np.quantile(ratios, (0.025, 0.975), method="inverted_cdf")
        return float(low), float(high)

    @property
    def noise_share(self) -> float:
        """Share of a step's squared gradient norm that is noise: (S/N) / (|G|^2 + S/N) for N windows."""
        return self.windows / (self.windows + self.global_batch_size)

    def steps_needed(self, factor: float) -> float:
        """Steps to the same loss with `factor` times the global batch, as a share of those with the global batch.

        A batch of N windows needs (1 + noise scale / N) times the fewest steps (arXiv:1812.06162).
        """
        scale, size = self.windows, self.global_batch_size
        return (1 + scale / (factor * size)) / (1 + scale / size)

    def __str__(self) -> str:
        steps, size = len(self.window_variances), self.global_batch_size
        variance, squared_norm = self.window_variances.mean(), self.squared_norms.mean()
        lines = [
            f"mean over {steps} steps of {size} windows: variance of a window's gradient S = {variance:.4g}, "
            f"squared norm of the gradient |G|^2 = {squared_norm:.4g}"
        ]
        if not math.isfinite(self.windows):
            more = "|G|^2 is not above 0, so these steps do not tell the gradient from its noise: give more --steps, or"
            return "\n".join([*lines, f"{more} a larger batch.global_batch_size."])
        low, high = map(_rounded, self.interval)
        between = f"{low} to {high}" if high != "inf" else f"{low} or more"
        twice = self.steps_needed(2)
        lines += [
            f"The noise scale is about {_rounded(self.windows)} windows (95% interval {between}).",
            f"At the global batch of {size}, {self.noise_share:.0%} of a step's squared gradient norm is noise. A "
            f"batch of {2 * size} would take about {twice:.0%} of the steps and {2 * twice:.0%} of the windows to the "
            "same loss; well above the noise scale a larger batch saves few steps and adds work (arXiv:1812.06162).",
            "This holds at this point of the training: the noise scale grows as the loss falls. It is known to "
            "underestimate the largest batch that pays off (arXiv:2505.23971).",
        ]
        return "\n".join(lines)


def _ratio(variance: Array, squared_norm: Array) -> Array:
    return np.where(squared_norm > 0, variance / np.where(squared_norm > 0, squared_norm, 1), np.inf)


def _rounded(windows: float) -> str:
    """Two significant digits, without an exponent."""
    short = float(f"{windows:.2g}")
    return f"{short:.0f}" if short >= 10 else f"{short:g}"


def measure_noise(settings: Settings, steps: int, ranks: Ranks) -> NoiseScale:
    """Compute the gradients of some global batches with learning rate 0. All ranks call it. It writes no files.

    The network is the one that training would start from or, with run.resume, that of a checkpoint. Its next global
    batches are taken, with micro-batches dealt at random.

    Args:
        steps: global batches to measure, at least 2.

    Raises:
        LayoutnerError: an error that is not a bug; its class tells the kind.
    """
    # At learning rate 0 no optimizer changes a weight: all of them multiply weight decay by it, too.
    changed = {
        "optimizer": settings.optimizer.model_copy(update={"lr": 0.0}),
        "run": settings.run.model_copy(update={"gradient_statistics_every": 1}),
    }
    plan = agreed_plan(settings.model_copy(update=changed), ranks)
    size = min(plan.batch.global_batch_size, len(plan.windows["train"]))
    if size < 2:
        raise SettingsError(
            f"batch.global_batch_size = {plan.batch.global_batch_size}, {len(plan.windows['train'])} training "
            "window(s): the noise in a gradient shows between two windows of a step; give a larger one, or more data"
        )
    checkpoint = ranks.run_on_rank_zero(lambda: _checkpoint(plan))
    # Without its optimizer state, which no gradient depends on.
    reader = None if checkpoint is None else CheckpointReader(checkpoint, ranks)
    engine, _ = start_engine(plan, reader, ranks)
    first = 0 if reader is None else reader.state.step
    where = "before training" if reader is None else f"after step {first}, in {checkpoint}"
    logger.info("measuring the gradient of %d steps %s; batch: %s", steps, where, plan.batch)
    plan = replace(plan, schedule=replace(plan.schedule, total=first + steps + SKIPPED))
    found: list[tuple[float, float]] = []
    with closing(global_batches(plan, ranks, first)) as batches:
        for batch in batches:
            with ranks.activity("shared", f"measuring step {batch.step + 1}"):
                statistics = optimizer_step(plan, engine, batch, ranks).statistics
            if "gradient/window_variance" in statistics:  # not skipped, and of two windows at least
                found.append((statistics["gradient/window_variance"], statistics["gradient/squared_norm"]))
                logger.info("step %d/%d S %.4g |G|^2 %.4g", len(found), steps, *found[-1])
            if len(found) == steps:
                break
    engine.close()
    if len(found) < steps:
        raise TrainingDiverged(
            f"fp16 overflowed in {steps + SKIPPED - len(found)} of {steps + SKIPPED} steps: use precision.dtype = bf16 "
            "or, if the loss scale is fixed, a lower precision.loss_scale"
        )
    variances, squared_norms = np.array(found).T
    result = NoiseScale(variances, squared_norms, size)
    logger.info("%s", result)
    return result


def _checkpoint(plan: Plan) -> Path | None:
    """The checkpoint of run.resume: that of the path, or the newest of the run folder. Only rank 0 calls it.

    Raises:
        CheckpointError: there is none, it is damaged, or its network is another one.
    """
    run = plan.settings.run
    if run.resume in ("auto", "must"):
        there = complete_checkpoints(run.output_dir)
        if not there and run.resume == "must":
            raise CheckpointError(f"run.resume = must, but {run.output_dir} holds no complete checkpoint")
        path = there[-1] if there else None
    else:
        path = None if run.resume == "never" else Path(run.resume)
    if path is None:
        return None
    if problem := verify(path):
        raise CheckpointError(f"{path}: not a complete layoutner checkpoint: {problem}; give another as run.resume")
    # Batch, seed and optimizer may be others: only the weights are taken.
    saved, own = read_record(path).must_match, plan.identity.must_match
    differs = [
        f"{key} = {saved.get(key)} there, {own[key]} here"
        for key in ("network", "preprocessing")
        if saved.get(key) != own[key]
    ]
    if differs:
        raise CheckpointError(f"{path}: is of another network than these settings: {'; '.join(differs)}")
    return path
