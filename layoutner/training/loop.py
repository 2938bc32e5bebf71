"""The training run: build once, then the loop."""

import logging
import math
import random
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy
import torch
from torch import nn

from layoutner.corpus.batches import Batch, assign_to_ranks, collate, step_windows
from layoutner.distributed.preemption import PreemptionGuard
from layoutner.distributed.ranks import Ranks
from layoutner.engine.engine import Engine, Step, require_dtype
from layoutner.errors import Preempted, UserError
from layoutner.models.families import model_inputs
from layoutner.models.loading import build
from layoutner.objectives.evaluate import evaluate
from layoutner.objectives.metrics import Scores
from layoutner.settings.tree import PrecisionSettings, Settings
from layoutner.training import checkpoint as checkpoints
from layoutner.training import preflight
from layoutner.training.checkpoint import CheckpointReader
from layoutner.training.checkpoint_files import TrainState, checkpoint_path
from layoutner.training.folder import open_folder, reacquire_lock, require_folder, save_model_assets
from layoutner.training.page_images import require_images
from layoutner.training.plan import Plan, make_plan
from layoutner.training.tracking import open_tracker

logger = logging.getLogger(__name__)

OVERFLOWS = 10  # skipped steps in a row that are worth a warning


def train(settings: Settings, ranks: Ranks) -> tuple[Plan, Path]:
    """Train, evaluate and save as the settings say. All ranks call it.

    Returns:
        The plan of the run, and its chosen checkpoint: the best on data.eval, the last without data.eval.

    Raises:
        UserError: anything the user can mend.
        Preempted: a signal asked the run to end, and it has saved where it stands.
    """
    logger.info("%s", preflight.table(settings, ranks))
    with ranks.activity("local", "reading checkpoint and documents"):
        plan = ranks.run_on_all_ranks(lambda: _plan(settings, ranks))
        preflight.require_same_plan(plan, ranks)
    if plan.pretrained.image_processor is not None:
        with ranks.activity("local", "reading page images"):
            documents = [*plan.corpus.train, *plan.corpus.eval, *plan.corpus.test]
            require_images(documents, plan.pretrained.image_processor, ranks)
    run = settings.run
    identity = plan.identity
    ranks.run_on_rank_zero(lambda: reacquire_lock(run.output_dir))
    resumed = ranks.run_on_rank_zero(lambda: checkpoints.select_checkpoint(settings, identity, plan.schedule.total))
    ranks.run_on_rank_zero(lambda: require_folder(settings))
    logger.info("%s", plan.describe())
    _seed(run.seed)  # the new head is the same on every rank
    with ranks.activity("local", "loading the checkpoint"):
        model = ranks.run_on_all_ranks(lambda: build(plan.pretrained, plan.corpus.labels.tags, settings.model.dropout))
    saved = CheckpointReader(resumed, ranks) if resumed is not None else None
    if saved is not None:
        saved.load_model(model)
    with ranks.activity("shared", "starting DeepSpeed"):
        engine = Engine(model, plan.ds_config, ranks)
    state = TrainState(step=0)
    if saved is not None:
        saved.load_engine(engine)
        state = saved.state
        if ranks.run_on_rank_zero(lambda: not checkpoints.has_best(run.output_dir, state)):
            # Of another run, or gone since: the best is looked for anew.
            state = TrainState(step=state.step)
        changed = checkpoints.changes(saved.record, identity)
        logger.info("resumed from %s; changed since: %s", saved.path, "; ".join(changed) or "nothing")
    with ranks.activity("main", "opening its metrics"):  # Weights & Biases may take minutes to answer
        tracker = ranks.run_on_all_ranks(lambda: open_tracker(settings, ranks, state.step))
    # Not before everything stands on every rank: with run.overwrite an earlier run goes now.
    ranks.run_on_rank_zero(
        lambda: open_folder(settings, plan.ds_config, plan.preprocessing, plan.training_pages, ranks)
    )
    ranks.run_on_rank_zero(lambda: _save_model_assets(plan, model))
    total = plan.schedule.total
    seconds, tokens, steps = 0.0, 0, 0  # since the last logged step, without evaluating and saving
    overflows = 0  # in a row

    with tracker, PreemptionGuard() as guard:
        while state.step < total:
            # All ranks: one optimizer step over the same global batch.
            start = time.perf_counter()
            with ranks.activity("shared", f"training step {state.step + 1}"):
                outcome, loss, step_tokens = _optimizer_step(plan, engine, state.step, ranks)
            overflows = 0 if outcome.applied else overflows + 1
            if ranks.is_rank_zero:
                _warn_of_overflow(settings.precision, state.step + 1, overflows, engine.loss_scale)
            state = replace(state, step=state.step + 1)
            seconds, tokens, steps = seconds + time.perf_counter() - start, tokens + step_tokens, steps + 1
            metrics: dict[str, float] = {}

            # All ranks: the numbers of the step (rank 0 writes them).
            if run.log_every and (state.step % run.log_every == 0 or state.step == total):
                metrics = {
                    "train/loss": loss,
                    "train/lr": outcome.lr,
                    "train/grad_norm": outcome.grad_norm,
                    "train/loss_scale": outcome.loss_scale,
                    "train/skipped_steps": engine.skipped_steps,
                    "throughput/tokens_per_s": tokens / seconds,
                    "time/step_s": seconds / steps,
                    "memory/peak_GiB": ranks.peak_memory_gib(),
                }
                logger.info("%s", _line(state.step, total, metrics))
                seconds, tokens, steps = 0.0, 0, 0

            # All ranks: evaluate, and keep the best checkpoint.
            better = False
            if plan.corpus.eval and ((run.eval_every and state.step % run.eval_every == 0) or state.step == total):
                scores = _evaluate(plan, engine, ranks)
                logger.info("step %d/%d eval f1 %.4f loss %.4f", state.step, total, scores.f1, scores.loss)
                metrics |= {f"eval/{name}": getattr(scores, name) for name in ("f1", "precision", "recall", "loss")}
                better = state.best_step is None or (scores.f1, -scores.loss) > (state.best_f1, -state.best_loss)
                if better:
                    state = replace(state, best_step=state.step, best_f1=scores.f1, best_loss=scores.loss)
            if metrics:
                ranks.run_on_rank_zero(partial(tracker.log, state.step, metrics))

            # All ranks: save; and end here, all together, where any of them was asked to.
            asked = int(ranks.all_reduce_max(guard.signal))
            if asked or better or state.step == total or (run.save_every and state.step % run.save_every == 0):
                with ranks.activity("shared", "saving"):
                    checkpoints.save(engine, run.output_dir, state, identity, run.keep_checkpoints, ranks)
            if asked and state.step < total:
                with ranks.activity("main", "closing its metrics"):
                    tracker.close()
                again = "run.resume = auto" + (" with run.overwrite = false" if run.overwrite else "")
                name = signal.Signals(asked).name
                raise Preempted(f"{name}: saved after step {state.step} of {total}; {again} goes on from there")

    with ranks.activity("main", "closing its metrics"):
        tracker.close()
    engine.close()
    chosen = state.best_step if state.best_step is not None else state.step
    return plan, checkpoint_path(run.output_dir, chosen)


def _plan(settings: Settings, ranks: Ranks) -> Plan:
    require_dtype(settings.precision.dtype)
    return make_plan(settings, ranks.size, ranks.activity)


def _seed(seed: int) -> None:
    """Seed every generator that a network may draw from: Python's, NumPy's, and torch's on the CPU and on GPUs."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)  # it takes 32 bits
    torch.manual_seed(seed)


def _save_model_assets(plan: Plan, model: nn.Module) -> None:
    pages, precision = plan.pretrained.image_processor, plan.settings.precision
    processor = None if pages is None else pages.processor
    save_model_assets(plan.settings.run.output_dir, model, plan.pretrained.tokenizer, processor, precision.dtype)


def _inputs(plan: Plan, batch: Batch, ranks: Ranks) -> dict[str, torch.Tensor]:
    return model_inputs(plan.pretrained.family, batch, ranks.device, plan.pretrained.image_processor)


def _optimizer_step(plan: Plan, engine: Engine, step: int, ranks: Ranks) -> tuple[Step, float, int]:
    """Forward, backward and update over the windows of one step: (what happened, mean loss, real tokens).

    Every rank knows the whole step, so the normaliser needs no communication.
    """
    windows = plan.windows["train"]
    settings = plan.settings
    epoch, place = divmod(step, math.ceil(len(windows) / plan.batch.global_batch_size))
    indices = step_windows(settings.run.seed, epoch, place, len(windows), plan.batch.global_batch_size)
    total_weight = plan.loss.total_weight(windows[index] for index in indices)
    forwards = assign_to_ranks(indices, [window.length for window in windows], plan.batch.micro_batch_size, ranks.size)[
        ranks.rank
    ]
    # What is drawn in a step, as dropout's masks, depends on seed, step and rank alone: a resumed run draws the same.
    _seed((settings.run.seed * 1_000_003 + step) * 4099 + ranks.rank)
    engine.train()
    summed_loss = torch.zeros((), device=ranks.device)
    for number, one in enumerate(forwards):
        with ranks.activity("local", f"reading the windows of step {step + 1}"):
            batch = collate([windows[index] for index in one], plan.pretrained.tokenizer.pad_token_id)
            inputs = _inputs(plan, batch, ranks)
        logits_BTL = engine.forward(inputs)
        summed = plan.loss.summed(logits_BTL, batch.labels_BT.to(ranks.device))
        engine.backward(summed * (ranks.size / total_weight), last=number == len(forwards) - 1)
        summed_loss += summed.detach()
    mean_loss = ranks.all_reduce_sum(float(summed_loss)) / total_weight
    if not math.isfinite(mean_loss):
        # All ranks hold the same number, so all stop here, before the update.
        names = sorted({plan.corpus.train[windows[index].document].name for index in indices})
        raise UserError(
            f"the loss of optimizer step {step + 1} is {mean_loss}: training stops before the weights are spoilt. "
            "A lower optimizer.lr, more warm-up or precision.dtype = bf16 may help. "
            f"Windows: {', '.join(map(str, sorted(indices)[:20]))}. Documents: {', '.join(names[:20])}"
        )
    outcome = engine.step(plan.schedule.deepspeed_position(step))
    if outcome.applied and not math.isfinite(outcome.grad_norm):
        # The same on all ranks. The weights are spoilt, and never saved.
        raise UserError(
            f"the gradient of optimizer step {step + 1} is {outcome.grad_norm} although its loss is {mean_loss:g}: "
            "training stops, and run.resume = auto goes on from the last checkpoint. A lower optimizer.lr, more "
            "warm-up or clipping (optimizer.max_grad_norm) may help"
        )
    return outcome, mean_loss, sum(windows[index].length for index in indices)


def _warn_of_overflow(precision: PrecisionSettings, step: int, in_a_row: int, loss_scale: float) -> None:
    """Say what to do while DeepSpeed still goes on: an overflow at the floor of the loss scale ends the run."""
    at_floor = precision.loss_scale == 0 and loss_scale <= precision.min_loss_scale
    if in_a_row and (at_floor or in_a_row % OVERFLOWS == 0):
        floor = f"precision.min_loss_scale = {precision.min_loss_scale}, where the next overflow may end the run"
        now = f"its floor, {floor}" if at_floor else f"{loss_scale:g}"
        logger.warning(
            "warning: step %d is the %d. in a row that fp16 overflowed and skipped; the loss scale is at %s. "
            "precision.dtype = bf16 does away with it; a lower optimizer.lr, more schedule.warmup_steps or, where the "
            "scale is fixed, a lower precision.loss_scale may help",
            step,
            in_a_row,
            now,
        )


def _evaluate(plan: Plan, engine: Engine, ranks: Ranks) -> Scores:
    engine.eval()
    return evaluate(
        lambda batch: engine.forward(_inputs(plan, batch, ranks)),
        [(plan.corpus.eval, plan.windows["eval"])],
        plan.corpus.labels,
        "eval",
        plan.settings.data.box_level,
        plan.batch.micro_batch_size,
        plan.pretrained.tokenizer.pad_token_id,
        ranks,
    )


def _line(step: int, total: int, metrics: dict[str, float]) -> str:
    skipped = f" skipped {metrics['train/skipped_steps']}" if metrics["train/skipped_steps"] else ""
    return (
        f"step {step}/{total} loss {metrics['train/loss']:.4f} lr {metrics['train/lr']:.3g} "
        f"grad norm {metrics['train/grad_norm']:.3g} {metrics['throughput/tokens_per_s']:.0f} tokens/s "
        f"{metrics['time/step_s']:.2f} s a step{skipped}"
    )
