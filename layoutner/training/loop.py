"""The training loop: optimizer steps, metrics, evaluation and checkpoints, until the schedule ends."""

import logging
import signal
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from layoutner.distributed.preemption import PreemptionGuard
from layoutner.distributed.ranks import Ranks
from layoutner.engine.engine import Engine
from layoutner.errors import Preempted
from layoutner.objectives.evaluate import evaluate
from layoutner.objectives.metrics import Scores
from layoutner.progress import task
from layoutner.tracking.step_line import step_line
from layoutner.tracking.trackers import Trackers
from layoutner.training import checkpoint as checkpoints
from layoutner.training.checkpoint_files import TrainState
from layoutner.training.global_batch import global_batches
from layoutner.training.meter import Meter
from layoutner.training.plan import Plan
from layoutner.training.step import optimizer_step

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingRun:
    """A run that is ready for its next optimizer step."""

    plan: Plan
    engine: Engine
    state: TrainState  # the initial state: step 0, or that of the checkpoint it resumes from
    tracker: Trackers
    meter: Meter


def train(training: TrainingRun, ranks: Ranks) -> TrainState:
    """Run the remaining optimizer steps, until run.patience ends them. All ranks call it.

    Returns:
        The state after the last step. Its checkpoint, and that of its best step, are saved.

    Raises:
        TrainingDiverged: the loss or the gradient is not finite.
        CheckpointError: a checkpoint or a file of the run folder cannot be written.
        Preempted: a signal asked the run to end, and its checkpoint is saved.
    """
    plan, engine, state, tracker = training.plan, training.engine, training.state, training.tracker
    run, total, meter, clock = plan.settings.run, plan.schedule.total, training.meter, engine.clock

    with (
        PreemptionGuard() as guard,
        closing(global_batches(plan, ranks, state.step)) as batches,
        task("training", total, "steps", state.step) as progress,
    ):
        while not _is_over(plan, state):
            # All ranks: one optimizer step over the same global batch.
            with ranks.activity("shared", f"training step {state.step + 1}"), meter.timed():
                result = optimizer_step(plan, engine, next(batches), ranks)
            state = replace(state, step=state.step + 1)
            last = state.step == total
            meter.add(result)
            progress.advance(note=_note(plan, state, result.loss, meter.tokens_per_s))
            if ranks.is_rank_zero:
                meter.warn_of_overflow(state.step, engine.loss_scale)

            # All ranks: the metrics of the steps since the last logged one. Rank 0 writes them.
            metrics: dict[str, float | None] = dict(result.statistics)
            evaluates = bool(plan.corpus.eval) and (last or _is_due(run.eval_every, state.step))
            if run.log_every and (last or _is_due(run.log_every, state.step) or (evaluates and run.patience)):
                left = total - state.step
                metrics |= meter.metrics(result, engine.skipped_steps, ranks.peak_memory_gib(), left)
                metrics["train/progress"] = state.step / total
                logger.info("%s", step_line(state.step, total, metrics))

            # All ranks: evaluate, and compare with the best checkpoint.
            better = False
            if evaluates:
                with clock.part("evaluation"):
                    scores = evaluate_dev(plan, engine, ranks)
                logger.info("step %d/%d eval f1 %.4f loss %.4f", state.step, total, scores.f1, scores.loss)
                better = state.best_step is None or (scores.f1, -scores.loss) > (state.best_f1, -state.best_loss)
                state = replace(state, waited=state.waited + 1)
                if better:
                    state = replace(state, best_step=state.step, best_f1=scores.f1, best_loss=scores.loss, waited=0)
                metrics |= scores.metrics()
                metrics |= {"best/f1": state.best_f1, "best/step": state.best_step}
            if metrics:
                ranks.run_on_rank_zero(partial(tracker.log, state.step, metrics))

            # All ranks: save; and stop here together if any rank was asked to.
            asked, over = int(ranks.all_reduce_max(guard.signal)), _is_over(plan, state)
            if asked or better or over or _is_due(run.save_every, state.step):
                with ranks.activity("shared", "saving"), clock.part("saving"), task("saving a checkpoint"):
                    checkpoints.save(engine, run.output_dir, state, plan.identity, run.keep_checkpoints, ranks)
            if asked and not over:
                again = "run.resume = auto" + (" with run.overwrite = false" if run.overwrite else "")
                name = signal.Signals(asked).name
                raise Preempted(f"{name}: saved after step {state.step} of {total}; {again} goes on from there")
        if state.step < total:
            logger.info("run.patience = %d: no better score since step %s", run.patience, state.best_step)
    return state


def _is_over(plan: Plan, state: TrainState) -> bool:
    """Whether the schedule has ended, or as many evaluations as run.patience allows were no better than the best."""
    patience = plan.settings.run.patience
    return state.step >= plan.schedule.total or 0 < patience <= state.waited


def _is_due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def evaluate_dev(plan: Plan, engine: Engine, ranks: Ranks) -> Scores:
    """The scores on data.eval. All ranks call it."""
    engine.eval()
    with engine.averaged():
        return evaluate(
            engine.forward,
            [(plan.corpus.eval, plan.windows["eval"])],
            plan.corpus.labels,
            "eval",
            plan.settings.data.box_level,
            plan.pretrained.collator(ranks.device),
            plan.batch.micro_batch_limit,
            ranks,
        )


def _note(plan: Plan, state: TrainState, loss: float, tokens_per_s: float) -> str:
    """What progress shows of a step."""
    epochs, f1 = plan.settings.schedule.epochs, "" if state.best_step is None else f", best eval f1 {state.best_f1:.4f}"
    epoch = f"epoch {plan.schedule.ramp.portion(state.step - 1).epoch + 1}" + (f" of {epochs}" if epochs else "")
    return f"{epoch}, loss {loss:.4f}{f1}, {tokens_per_s:.0f} tokens/s"
