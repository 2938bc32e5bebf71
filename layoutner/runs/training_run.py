"""Prepare a training run from its settings, train, and return the chosen checkpoint."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

from layoutner.distributed.ranks import Ranks
from layoutner.documents.columns import Chain
from layoutner.engine.engine import Engine, require_dtype
from layoutner.models.attention import require_attention
from layoutner.models.flops import NetworkFlops, matmul_peak
from layoutner.models.loading import build
from layoutner.models.parameters import DTYPES
from layoutner.progress import task
from layoutner.runs.micro_batch import measured_micro_batch
from layoutner.settings.tree import Settings
from layoutner.tracking.trackers import open_tracker
from layoutner.training import checkpoint as checkpoints
from layoutner.training import preflight
from layoutner.training.checkpoint import CheckpointReader
from layoutner.training.checkpoint_files import TrainState, checkpoint_path
from layoutner.training.folder import environment, open_folder, reacquire_lock, require_folder, save_model_assets
from layoutner.training.loop import TrainingRun, train
from layoutner.training.meter import Meter
from layoutner.training.page_images import require_images
from layoutner.training.plan import Plan, make_plan
from layoutner.training.step import seed_generators

logger = logging.getLogger(__name__)


def train_model(training: TrainingRun, ranks: Ranks) -> tuple[Path, int]:
    """Train, evaluate and save to the end of the run, and close the engine. All ranks call it.

    Returns:
        The chosen checkpoint, which is the best on data.eval, or the last without data.eval; and the last step.

    Raises:
        LayoutnerError: an error that is not a bug; its class tells the kind.
        Preempted: a signal asked the run to end, and its checkpoint is saved.
    """
    state = train(training, ranks)
    training.engine.close()
    chosen = state.best_step if state.best_step is not None else state.step
    return checkpoint_path(training.plan.settings.run.output_dir, chosen), state.step


def open_run(settings: Settings, ranks: Ranks) -> TrainingRun:
    """Read the data, resume from a checkpoint if there is one, start the engine and open the run folder.

    All ranks call it. All checks run before a model is loaded. Files of an earlier run are removed only when every rank
    is ready for its first step.

    Raises:
        LayoutnerError: an error that is not a bug; its class tells the kind.
    """
    plan = agreed_plan(settings, ranks)
    settings = plan.settings
    folder = settings.run.output_dir
    ranks.run_on_rank_zero(lambda: reacquire_lock(folder))
    resumed = ranks.run_on_rank_zero(
        lambda: checkpoints.select_checkpoint(settings, plan.identity, plan.schedule.total)
    )
    ranks.run_on_rank_zero(lambda: require_folder(settings))
    description = plan.describe()
    logger.info("%s", description, extra={"panel": "plan"})
    # All ranks measure at once, as they compute at once.
    own_peak = ranks.run_on_all_ranks(lambda: matmul_peak(ranks.device, DTYPES[settings.precision.dtype]))
    peak = ranks.all_reduce_sum(own_peak)
    reader = None if resumed is None else CheckpointReader(resumed, ranks)
    engine, flops = start_engine(plan, reader, ranks)
    state = TrainState(step=0) if reader is None else _resume(plan, engine, reader, ranks)
    with ranks.activity("main", "opening its metrics"):  # Weights & Biases may take minutes to answer

        def about() -> dict[str, Any]:
            return {"deepspeed_json": plan.ds_config, "plan": description, "environment": environment(ranks)}

        tracker = ranks.run_on_all_ranks(lambda: open_tracker(settings, ranks, state.step, about))
    # With run.overwrite this removes an earlier run.
    ranks.run_on_rank_zero(
        lambda: open_folder(settings, plan.ds_config, plan.preprocessing, plan.training_pages, description, ranks)
    )
    ranks.run_on_rank_zero(partial(_save_model_assets, plan, engine))
    return TrainingRun(plan, engine, state, tracker, Meter(settings.precision, engine.clock, flops, peak))


def agreed_plan(settings: Settings, ranks: Ranks) -> Plan:
    """Make the plan, and check that all ranks have the same one and that all page images can be read. All call it."""
    logger.info("%s", preflight.table(settings, ranks))
    settings = measured_micro_batch(settings, ranks)
    with ranks.activity("local", "reading checkpoint and documents"):
        plan = ranks.run_on_all_ranks(lambda: _plan_alone(settings, ranks))
        preflight.require_same_plan(plan, ranks)
    if plan.pretrained.image_processor is not None:
        with ranks.activity("local", "reading page images"):
            documents = Chain([plan.corpus.train, plan.corpus.eval, plan.corpus.test])
            require_images(documents, plan.pretrained.image_processor, ranks)
    return plan


def _plan_alone(settings: Settings, ranks: Ranks) -> Plan:
    require_dtype(settings.precision.dtype)
    plan = make_plan(settings, ranks.size, ranks.activity)
    require_attention(settings, plan.pretrained.family, plan.pretrained.config, ranks.device)
    return plan


def start_engine(plan: Plan, reader: CheckpointReader | None, ranks: Ranks) -> tuple[Engine, NetworkFlops]:
    """Create the engine, with the weights of a checkpoint if there is one; count the network's FLOPs. All call it."""
    settings, own = plan.settings, plan.settings.model
    seed_generators(settings.run.seed)  # the new head is the same on every rank
    with ranks.activity("local", "loading the checkpoint"), task("loading the model"):
        model = ranks.run_on_all_ranks(
            lambda: build(
                plan.pretrained,
                plan.corpus.labels.tags,
                own.dropout,
                own.dropout_masks,
                own.attention,
                own.gradient_checkpointing,
            )
        )
    if reader is not None:
        reader.load_model(model)
    # Before ZeRO 3 partitions it.
    flops = NetworkFlops.of(model, plan.pretrained.family, plan.pretrained.image_processor is not None)
    with ranks.activity("shared", "starting DeepSpeed"), task("starting DeepSpeed"):
        engine = Engine(model, plan.ds_config, plan.optimizer, ranks)
    return engine, flops


def _resume(plan: Plan, engine: Engine, reader: CheckpointReader, ranks: Ranks) -> TrainState:
    """Give the engine the optimizer state of the checkpoint whose weights it has. All ranks call it."""
    reader.load_engine(engine)
    state = reader.state
    if ranks.run_on_rank_zero(lambda: not checkpoints.has_best(plan.settings.run.output_dir, state)):
        # The best checkpoint is missing, or belongs to another run: start tracking it again.
        state = TrainState(step=state.step)
    changed = checkpoints.changes(reader.record, plan.identity)
    logger.info("resumed from %s; changed since: %s", reader.path, "; ".join(changed) or "nothing")
    if plan.optimizer.average_decay and not reader.has_average:
        logger.info("%s holds no average of the weights: it starts at the weights of the checkpoint", reader.path)
    if reader.has_average and not plan.optimizer.average_decay:
        logger.info("the average of the weights in %s is dropped, as optimizer.average_decay = 0", reader.path)
    return state


def _save_model_assets(plan: Plan, engine: Engine) -> None:
    pages, settings = plan.pretrained.image_processor, plan.settings
    processor = None if pages is None else pages.processor
    save_model_assets(
        settings.run.output_dir, engine.module, plan.pretrained.tokenizer, processor, settings.precision.dtype
    )
