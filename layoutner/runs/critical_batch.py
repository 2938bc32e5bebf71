"""Measure the critical batch: branch from a checkpoint with larger batches, and compare their losses."""

import gc
import logging
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from layoutner.distributed.ranks import Ranks
from layoutner.errors import CheckpointError, SettingsError, TrainingDiverged
from layoutner.planning.ramp import Ramp
from layoutner.runs.noise_scale import require_same_network, resumed_path
from layoutner.runs.training_run import agreed_plan, start_engine
from layoutner.settings.schedule import ScheduleSettings
from layoutner.settings.tree import Settings
from layoutner.training.checkpoint import CheckpointReader
from layoutner.training.checkpoint_files import read_record
from layoutner.training.global_batch import global_batches
from layoutner.training.loop import evaluate_dev
from layoutner.training.plan import Plan
from layoutner.training.step import optimizer_step

logger = logging.getLogger(__name__)

TOLERATED = 0.01  # dev loss above that of a smaller batch (arXiv:2505.23971)
STEPS = 20  # of the largest batch, unless the number of windows is given


@dataclass(frozen=True)
class Branch:
    """What became of a checkpoint after some windows in steps of one batch size."""

    batch: int
    lr: float
    steps: int
    loss: float  # on the dev pages, at the end


@dataclass(frozen=True)
class CriticalBatch:
    """The branches of one checkpoint, by increasing batch. All have trained on the same windows, or a few more."""

    branches: tuple[Branch, ...]

    @property
    def windows(self) -> int:
        """The largest batch whose loss is at most TOLERATED above that of every smaller one."""
        found, least = self.branches[0].batch, math.inf
        for branch in self.branches:
            if not (math.isfinite(branch.loss) and branch.loss <= least + TOLERATED):
                break
            found, least = branch.batch, min(least, branch.loss)
        return found

    def __str__(self) -> str:
        lines = [
            f"batch {one.batch}, learning rate {one.lr:.3g}: dev loss {one.loss:.4f} after {one.steps} steps"
            for one in self.branches
        ]
        if not math.isfinite(self.branches[0].loss):
            return "\n".join([*lines, "The smallest batch did not train, so no critical batch can be told."])
        lines.append(
            f"The critical batch is about {self.windows} windows: the largest of these whose dev loss is at most "
            f"{TOLERATED} above that of every smaller one (arXiv:2505.23971)."
        )
        if self.windows == self.branches[-1].batch:
            lines.append("It is the largest that was tried, so it may be larger: give larger --factors.")
        lines.append(
            "This holds at this point of the training, with the learning rate in proportion to the square root of the "
            "batch. Later on it is usually larger."
        )
        return "\n".join(lines)


def measure_critical_batch(
    settings: Settings, factors: Sequence[int], windows: int | None, ranks: Ranks
) -> CriticalBatch:
    """Train branches of a checkpoint, and score each on data.eval. All ranks call it. It writes no files.

    A branch takes the weights and the optimizer state of the checkpoint of run.resume, and goes on with its next
    windows. Its batch is a multiple k of the batch of the checkpoint, and its learning rate, which is constant, sqrt(k)
    times that of the checkpoint.

    Args:
        factors: the multiples k, which increase from 1.
        windows: to train each branch on, at least; the default is STEPS steps of the largest batch.

    Raises:
        LayoutnerError: an error that is not a bug; its class tells the kind.
    """
    plan = agreed_plan(settings, ranks)
    if not plan.corpus.eval:
        raise SettingsError("critical-batch compares losses on data.eval, and there is none: give data.eval")
    path = ranks.run_on_rank_zero(lambda: resumed_path(settings))
    if path is None:
        raise CheckpointError(
            "critical-batch branches from a checkpoint: give run.resume, a path or must for the newest of "
            "run.output_dir"
        )
    same = ("optimizer", "global_batch_size", "ramp", "seed", "loss", "training_windows", "window_order")
    ranks.run_on_rank_zero(lambda: require_same_network(path, plan, *same))
    done: int = ranks.run_on_rank_zero(lambda: read_record(path).state.step)
    largest = factors[-1] * plan.batch_of(done).global_batch_size
    if largest > (there := len(plan.windows["train"])):
        raise SettingsError(
            f"--factors: a batch of {largest} windows is more than the {there} training windows: give smaller factors"
        )
    if not plan.lr(done):
        raise SettingsError(
            f"{path}: the learning rate is 0 after step {done}, at the end of its schedule: give an earlier checkpoint"
        )
    branches = []
    for factor in factors:
        branch = _branch(plan, path, done, factor, windows or STEPS * largest, ranks)
        logger.info("batch %d: dev loss %.4f after %d steps", branch.batch, branch.loss, branch.steps)
        branches.append(branch)
    result = CriticalBatch(tuple(branches))
    logger.info("%s", result)
    return result


def _branch(plan: Plan, path: Path, done: int, factor: int, windows: int, ranks: Ranks) -> Branch:
    """Train one branch: the plan of the run as it was, and then with another batch and learning rate."""
    settings, batch = plan.settings, factor * plan.batch_of(done).global_batch_size
    before = [(first, size) for first, size in plan.schedule.ramp.pairs if first < done]
    ramp = Ramp.of(batch, [*before, (done, batch)], len(plan.windows["train"]))
    total = ramp.steps_until(ramp.trained(done) + windows)
    lr = plan.lr(done) * math.sqrt(factor)
    unscaled = {"scale_lr": "none"} | ({"scale_betas": "none"} if hasattr(plan.optimizer, "scale_betas") else {})
    changed = {
        "batch": settings.batch.model_copy(
            update={"global_batch_size": batch, "ramp": tuple(map(tuple, ramp.pairs)), "reference_batch_size": None}
        ),
        # Without an average of the weights, which would follow them more slowly in fewer steps.
        "optimizer": plan.optimizer.model_copy(update={"lr": lr, "average_decay": 0.0, **unscaled}),
        "schedule": ScheduleSettings(max_steps=total, shape="constant"),
    }
    own = agreed_plan(settings.model_copy(update=changed), ranks)
    reader = CheckpointReader(path, ranks)
    engine, _ = start_engine(own, reader, ranks)
    reader.load_engine(engine)
    try:
        with closing(global_batches(own, ranks, done)) as batches:
            for global_batch in batches:
                with ranks.activity("shared", f"training step {global_batch.step + 1}"):
                    optimizer_step(own, engine, global_batch, ranks)
        loss = evaluate_dev(own, engine, ranks).loss
    except TrainingDiverged as error:  # on every rank
        logger.warning("batch %d: %s", batch, error)
        loss = math.inf
    engine.close()
    del engine
    gc.collect()  # DeepSpeed's engine has reference cycles, and the next branch needs the memory
    return Branch(batch, lr, total - done, loss)
