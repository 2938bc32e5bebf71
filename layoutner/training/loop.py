"""The training run: build once, then the loop."""

import logging
import math
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from layoutner.config.errors import UserError
from layoutner.config.settings import Settings
from layoutner.data.batches import Batch, collate, share, step_windows
from layoutner.model.families import model_inputs
from layoutner.model.loading import build
from layoutner.training import checkpoint as checkpoints
from layoutner.training.checkpoint import TrainState
from layoutner.training.engine import Engine, Step, require_dtype
from layoutner.training.evaluate import evaluate
from layoutner.training.folder import open_folder, save_skeleton
from layoutner.training.metrics import Scores
from layoutner.training.page_images import demand_images
from layoutner.training.plan import Plan, make_plan
from layoutner.training.tracking import open_tracker
from layoutner.training.world import World

logger = logging.getLogger(__name__)


def train(settings: Settings, world: World) -> tuple[Plan, Path]:
    """Train, evaluate and save as the settings say. All ranks call it.

    Returns:
        The plan of the run, and its chosen checkpoint: the best on data.eval, the last without data.eval.

    Raises:
        UserError: anything the user can mend.
    """
    plan = world.agree(lambda: _plan(settings, world))
    if plan.checkpoint.pages is not None:
        documents = [*plan.corpus.train, *plan.corpus.eval, *plan.corpus.test]
        demand_images(documents, plan.checkpoint.pages, world)
    run = settings.run
    resumed = world.on_main(lambda: checkpoints.to_resume(settings, plan.shape))
    world.on_main(lambda: open_folder(settings, plan.ds_config, plan.preprocessing, world))
    logger.info("%s", plan.describe())
    torch.manual_seed(run.seed)  # the new head is the same on every rank
    model = build(plan.checkpoint, plan.corpus.labels.tags, settings.model.dropout)
    world.on_main(lambda: _save_skeleton(plan, model))
    engine = Engine(model, plan.ds_config, world)
    state = TrainState(step=0)
    if resumed is not None:
        state = TrainState(**engine.load(resumed.parent, resumed.name))
        if resumed.parent.parent.resolve() != run.output_dir.resolve():
            state = TrainState(step=state.step)  # the best checkpoint of another run is not in this folder
        logger.info("resumed from %s", resumed)
    tracker = world.agree(lambda: open_tracker(settings, world, state.step))
    total = plan.schedule.total
    seconds, tokens, steps = 0.0, 0, 0  # since the last logged step, without evaluating and saving

    while state.step < total:
        # All ranks: one optimizer step over the same global batch.
        start = time.perf_counter()
        outcome, loss, step_tokens = _optimizer_step(plan, engine, state.step, world)
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
                "memory/peak_GiB": world.peak_memory_gib(),
            }
            logger.info("%s", _line(state.step, total, metrics))
            seconds, tokens, steps = 0.0, 0, 0

        # All ranks: evaluate, and keep the best checkpoint.
        better = False
        if plan.corpus.eval and ((run.eval_every and state.step % run.eval_every == 0) or state.step == total):
            scores = _evaluate(plan, engine, world)
            logger.info("step %d/%d eval f1 %.4f loss %.4f", state.step, total, scores.f1, scores.loss)
            metrics |= {f"eval/{name}": getattr(scores, name) for name in ("f1", "precision", "recall", "loss")}
            better = state.best_step is None or (scores.f1, -scores.loss) > (state.best_f1, -state.best_loss)
            if better:
                state = replace(state, best_step=state.step, best_f1=scores.f1, best_loss=scores.loss)
        if metrics:
            tracker.log(state.step, metrics)

        # All ranks: save.
        if better or state.step == total or (run.save_every and state.step % run.save_every == 0):
            checkpoints.save(engine, run.output_dir, state, plan.shape, run.keep_checkpoints, world)

    tracker.close()
    engine.close()
    chosen = state.best_step if state.best_step is not None else state.step
    return plan, checkpoints.checkpoint_path(run.output_dir, chosen)


def _plan(settings: Settings, world: World) -> Plan:
    require_dtype(settings.precision.dtype)
    return make_plan(settings, world.size)


def _save_skeleton(plan: Plan, model: nn.Module) -> None:
    pages, precision = plan.checkpoint.pages, plan.settings.precision
    processor = None if pages is None else pages.processor
    save_skeleton(plan.settings.run.output_dir, model, plan.checkpoint.tokenizer, processor, precision.dtype)


def _inputs(plan: Plan, batch: Batch, world: World) -> dict[str, torch.Tensor]:
    return model_inputs(plan.checkpoint.family, batch, world.device, plan.checkpoint.pages)


def _optimizer_step(plan: Plan, engine: Engine, step: int, world: World) -> tuple[Step, float, int]:
    """Forward, backward and update over the windows of one step: (what happened, mean loss, real tokens).

    Every rank knows the whole step, so the normaliser needs no communication.
    """
    windows = plan.windows["train"]
    settings = plan.settings
    epoch, place = divmod(step, math.ceil(len(windows) / plan.batch.global_windows))
    indices = step_windows(settings.run.seed, epoch, place, len(windows), plan.batch.global_windows)
    total_weight = plan.loss.total_weight(windows[index] for index in indices)
    forwards = share(indices, [window.length for window in windows], plan.batch.micro_windows, world.size)[world.rank]
    # Dropout's masks depend on seed, step and rank alone, so a resumed run draws the same ones.
    torch.manual_seed((settings.run.seed * 1_000_003 + step) * 4099 + world.rank)
    engine.train()
    summed_loss = torch.zeros((), device=world.device)
    for number, one in enumerate(forwards):
        batch = collate([windows[index] for index in one], plan.checkpoint.tokenizer.pad_token_id)
        logits_BTL = engine.forward(_inputs(plan, batch, world))
        summed = plan.loss.summed(logits_BTL, batch.labels_BT.to(world.device))
        engine.backward(summed * (world.size / total_weight), last=number == len(forwards) - 1)
        summed_loss += summed.detach()
    mean_loss = world.sum(float(summed_loss)) / total_weight
    if not math.isfinite(mean_loss):
        # All ranks hold the same number, so all stop here, before the update.
        names = sorted({plan.corpus.train[windows[index].document].name for index in indices})
        raise UserError(
            f"the loss of optimizer step {step + 1} is {mean_loss}: training stops before the weights are spoilt. "
            f"A lower optimizer.lr, more warm-up or precision.dtype = bf16 may help. Documents: {', '.join(names[:20])}"
        )
    outcome = engine.step(plan.schedule.deepspeed_position(step))
    return outcome, mean_loss, sum(windows[index].length for index in indices)


def _evaluate(plan: Plan, engine: Engine, world: World) -> Scores:
    engine.eval()
    return evaluate(
        lambda batch: engine.forward(_inputs(plan, batch, world)),
        [(plan.corpus.eval, plan.windows["eval"])],
        plan.corpus.labels,
        "eval",
        plan.settings.data.box_level,
        plan.batch.micro_windows,
        plan.checkpoint.tokenizer.pad_token_id,
        world,
    )


def _line(step: int, total: int, metrics: dict[str, float]) -> str:
    skipped = f" skipped {metrics['train/skipped_steps']}" if metrics["train/skipped_steps"] else ""
    return (
        f"step {step}/{total} loss {metrics['train/loss']:.4f} lr {metrics['train/lr']:.3g} "
        f"grad norm {metrics['train/grad_norm']:.3g} {metrics['throughput/tokens_per_s']:.0f} tokens/s "
        f"{metrics['time/step_s']:.2f} s a step{skipped}"
    )
