"""Everything that a run derives before a model is loaded, so that errors are reported before a GPU is used."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from layoutner.corpus.batches import assign_to_ranks, deal_at_random, portion_windows, row_tokens
from layoutner.corpus.order import ORDER
from layoutner.corpus.splitter import WindowSplitter
from layoutner.corpus.store import StoredWindows, cut_as, require_cut_as
from layoutner.corpus.windows import Windows
from layoutner.distributed.watchdog import Kind
from layoutner.documents.columns import digest, distinct, page_digests, without_image, word_counts
from layoutner.documents.roles import Corpus, read_corpus, require_predictions
from layoutner.documents.store import StoredDocuments
from layoutner.errors import DataError, SettingsError, raise_gathered
from layoutner.files.arrays import Array
from layoutner.models.families import window_splitter
from layoutner.models.loading import PretrainedModel, open_pretrained
from layoutner.models.preprocessing import Preprocessing
from layoutner.objectives.loss import Loss, make_loss
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet
from layoutner.planning.batch_plan import BatchPlan, plan_settings
from layoutner.planning.batch_plan import describe as describe_batch
from layoutner.planning.render import render
from layoutner.planning.scaling import describe as describe_optimizer
from layoutner.planning.scaling import scaled_lr, scaled_optimizer, unstable_lr_notes
from layoutner.planning.schedule import Schedule, plan_schedule
from layoutner.progress import counted
from layoutner.settings.data import DataSettings
from layoutner.settings.optimizer import OptimizerSettings
from layoutner.settings.tree import Settings
from layoutner.tracking.trackers import require_packages
from layoutner.training.checkpoint import Identity
from layoutner.training.folder import read_training_pages

Doing = Callable[[Kind, str], AbstractContextManager[None]]  # Ranks.activity

FEW_STEPS = 100  # a run of fewer optimizer steps gets a note
COUNTED_STEPS = 500  # steps of the first epoch whose padding is counted; more would take seconds

# Configuration values that determine the shapes of the weights.
NETWORK = ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")


@dataclass(frozen=True)
class Plan:
    """All data and numbers of a run that are known before training."""

    settings: Settings
    corpus: Corpus
    pretrained: PretrainedModel
    windows: dict[str, Windows]  # by role
    loss: Loss
    batch: BatchPlan  # of a constant global batch, or of the last phase of batch.ramp
    schedule: Schedule
    ds_config: dict[str, Any]

    @cached_property
    def optimizer(self) -> OptimizerSettings:
        """[optimizer], scaled to the global batch; with batch.ramp, to that of its last phase."""
        return scaled_optimizer(self.settings)

    def lr(self, step: int) -> float:
        """Learning rate of optimizer step `step` (0-based), without layer-wise decay."""
        return scaled_lr(self.settings, self.schedule.ramp.phase(step).size) * self.schedule.factor(step)

    def batch_of(self, step: int) -> BatchPlan:
        """The batch plan of optimizer step `step`."""
        return self.batch.of_size(self.schedule.ramp.phase(step).size)

    def step_batches(self, step: int) -> tuple[list[int], list[list[list[int]]]]:
        """The windows of optimizer step `step`, and the same by rank and micro-batch (`assign_to_ranks`)."""
        lengths, batch = self.windows["train"].lengths, self.batch_of(step)
        indices = portion_windows(self.settings.run.seed, self.schedule.ramp.portion(step), len(lengths))
        deal = deal_at_random if self.measures_gradient(step) else assign_to_ranks
        return indices, deal(indices, lengths, batch.micro_batch_limit, batch.world_size, self.pretrained.packs)

    def measures_gradient(self, step: int) -> bool:
        """Whether optimizer step `step` (0-based) has gradient statistics, and micro-batches for them."""
        every = self.settings.run.gradient_statistics_every
        return every > 0 and (step + 1) % every == 0

    @property
    def preprocessing(self) -> Preprocessing:
        """How documents become network input. A trained model needs this besides its weights and tokenizer."""
        data, labels, train = self.settings.data, self.corpus.labels, self.corpus.train
        name = self.pretrained.name
        counts = {"pages": len(train), "words": int(word_counts(train).sum()), "windows": len(self.windows["train"])}
        return Preprocessing(
            family=self.pretrained.family,
            scheme=labels.scheme,
            labels=tuple(labels.tags),
            max_length=data.max_length,
            stride=data.stride,
            box_level=data.box_level,
            images="ignore" if self.pretrained.image_processor is None else "use",
            ignore_types=tuple(data.ignore_types),
            chosen_on_test=data.selection_split == "test",
            origin={"base_model": None if Path(name).exists() else name, **counts},  # None: not of the hub
        )

    @property
    def training_pages(self) -> Array:
        """Digests of the pages trained on, including those that the initial model was trained on, sorted."""
        before, own = read_training_pages(Path(self.pretrained.name)), page_digests(self.corpus.train)
        return distinct(own if before is None else np.concatenate([before, own]))

    @cached_property
    def identity(self) -> Identity:
        """The identity stored in checkpoints. Ranks, ZeRO stage and micro-batch size may change on resume."""
        settings, ramp = self.settings, self.schedule.ramp
        return Identity(
            must_match={
                "network": {key: getattr(self.pretrained.config, key, None) for key in NETWORK},
                "precision": settings.precision.model_dump(mode="json"),
                "global_batch_size": self.batch.global_batch_size,
                "seed": settings.run.seed,
                "optimizer": self._optimizer_to_match,
                "loss": settings.loss.model_dump(mode="json"),
                "preprocessing": self.preprocessing.to_match(),
                "training_windows": self.windows["train"].digest(self.corpus.labels.tags),
                "window_order": ORDER,
                "eval_documents": digest(self.corpus.eval),
                **({"ramp": ramp.pairs} if ramp.changes else {}),
            },
            settings=settings.model_dump(mode="json"),
            world_size=self.batch.world_size,
        )

    @property
    def _optimizer_to_match(self) -> dict[str, Any]:
        """What the moments of the optimizer depend on.

        The learning rate may change on resume, by whatever rule, and so may its known limit. So may the averaging of
        the weights: they do not depend on it, and an average that a checkpoint lacks starts at its weights.
        """
        may_change = {"lr", "max_grad_norm", "scale_lr", "scale_betas", "largest_stable_lr", "average_decay"}
        values = self.optimizer.model_dump(mode="json", exclude=may_change)
        if values["layer_decay"] == 1:
            del values["layer_decay"]
        return values

    def describe(self) -> str:
        """Description of the run, for the first lines of its log."""
        lines = []
        for role in ("train", "eval", "test"):
            documents, windows = getattr(self.corpus, role), self.windows[role]
            if documents:
                words = int(word_counts(documents).sum())
                lines.append(
                    f"{role}: {len(documents)} documents, {words} words, {len(windows)} windows, "
                    f"{windows.tokens} tokens"
                )
        lines += self.corpus.notes
        labels = self.corpus.labels
        lines.append(f"labels: {len(labels.tags)} in {labels.scheme}: O and {', '.join(labels.types)}")
        if self.settings.data.label_all_subwords:
            labelled = self.windows["train"].labelled.sum()
            lines.append(f"labelled: every sub-word, {labelled} tokens per epoch")
        if self.loss.smoothing or self.loss.weights:
            lines.append(f"loss: {self.loss.describe(labels.tags)}")
        lines += describe_batch(self.batch, self.schedule.ramp)
        if not self.corpus.eval:
            lines.append("note: no data.eval, so checkpoints are not compared and the last one is chosen")
        largest = max(phase.size for phase in self.schedule.ramp.begun(self.schedule.total))
        if largest >= len(self.windows["train"]):
            lines.append(
                f"note: a step of {largest} windows takes all {len(self.windows['train'])} training windows, so an "
                "epoch is one step (full-batch descent); a smaller batch.global_batch_size gives more steps per epoch"
            )
        lines += [f"schedule: {self.schedule}", *self.schedule.notes]
        lines.append(f"optimizer: {describe_optimizer(self.settings)}")
        lines += unstable_lr_notes(self.settings, self.schedule.total)
        if self.schedule.total < FEW_STEPS:
            lines.append(
                f"note: {self.schedule.total} optimizer steps are few: most runs need hundreds. A smaller "
                "batch.global_batch_size or a longer schedule gives more"
            )
        every = self.settings.run.gradient_statistics_every
        if every > self.schedule.total:
            lines.append(
                f"note: run.gradient_statistics_every = {every} is more than the {self.schedule.total} optimizer steps "
                "of the run, so no step is measured"
            )
        stage = self.ds_config["zero_optimization"]["stage"]
        lines.append(f"engine: {self.settings.precision.dtype}, ZeRO {stage}, {self._rows()}")
        return "\n".join(lines)

    def _rows(self) -> str:
        """How the windows of the first `COUNTED_STEPS` steps are put into rows: the padding, and the micro-batches."""
        lengths, packs = self.windows["train"].lengths, self.pretrained.packs
        steps = min(COUNTED_STEPS, self.schedule.ramp.steps_until(len(lengths)))
        tokens, computed, micro_batches, planned = 0, 0, 0, 0
        for step in range(steps):
            indices, by_rank = self.step_batches(step)
            tokens += int(lengths[indices].sum())
            for dealt in by_rank:
                computed += sum(row_tokens([int(lengths[i]) for i in one], packs) for one in dealt)
                micro_batches += len(dealt)
            planned += self.batch_of(step).micro_batches
        share = f"{1 - tokens / computed:.1%} of a forward is padding"
        text = "packed rows, without padding" if packs else f"padded rows, {share}"
        if micro_batches <= planned:
            return text
        each = micro_batches / (steps * self.batch.world_size)
        return f"{text}, {each:.1f} micro-batches per rank and step"


def _unwatched(_: Kind, __: str) -> AbstractContextManager[None]:
    return nullcontext()


def make_plan(settings: Settings, world_size: int, doing: Doing = _unwatched) -> Plan:
    """Read the data and the pretrained model's configuration, and compute the plan.

    Args:
        doing: `Ranks.activity`, which tells the other ranks what this rank does.

    Raises:
        LayoutnerError: an error in the data, pretrained model, batch, schedule, preset or installed packages.
    """
    require_packages(settings)
    require_predictions(settings)
    batch = plan_settings(settings, world_size)
    corpus, pretrained, windows = cut_windows(settings, doing)
    if settings.run.patience and not corpus.eval:
        raise SettingsError(
            f"run.patience = {settings.run.patience} compares scores on data.eval, and there is none: give data.eval, "
            "or run.patience = 0"
        )
    sizes = settings.batch
    schedule = plan_schedule(settings.schedule, sizes.global_batch_size, len(windows["train"]), sizes.ramp)
    ds_config = render(settings, batch, schedule)
    loss = make_loss(settings.loss, windows["train"], len(corpus.labels.tags))
    return Plan(settings, corpus, pretrained, windows, loss, batch, schedule, ds_config)


def cut_windows(settings: Settings, doing: Doing = _unwatched) -> tuple[Corpus, PretrainedModel, dict[str, Windows]]:
    """Read the documents of every role, and split them into windows."""
    corpus = read_corpus(settings.data, settings.run.seed)
    pretrained = open_pretrained(settings.model, settings.data.max_image_mib)
    pretrained.require_length(settings.data.max_length)
    by_role: dict[str, Sequence[Document]] = {"train": corpus.train, "eval": corpus.eval, "test": corpus.test}
    if pretrained.image_processor is not None:
        names = [name for documents in by_role.values() for name in without_image(documents)]
        problems = [f"{name}: has no page image" for name in names]
        raise_gathered(
            DataError,
            f"{len(problems)} of {sum(map(len, by_role.values()))} documents have no page image, which "
            f"{pretrained.family} needs (model.images = ignore runs without, if the family can)",
            problems,
        )
    splitter = window_splitter(pretrained.family, pretrained.tokenizer, settings.data)
    with doing("local", "cutting windows"):
        windows = {
            role: _windows(splitter, settings.data, role, found, corpus.labels) for role, found in by_role.items()
        }
    return corpus, pretrained, windows


def _windows(
    splitter: WindowSplitter, data: DataSettings, role: str, documents: Sequence[Document], labels: LabelSet
) -> Windows:
    """The windows of one role: those of a store, or cut now."""
    # Evaluation scores only first sub-words, so only training may label all sub-words.
    all_subwords = role == "train" and data.label_all_subwords
    if not isinstance(documents, StoredDocuments):
        followed = counted(documents, f"cutting {role} windows", len(documents), "documents")
        return splitter.split(followed, labels, all_subwords)
    cut = cut_as(splitter, data.scheme, all_subwords)
    if role != "train":
        del cut["data.label_all_subwords"]  # a store that labels all sub-words has the first ones, too
    require_cut_as(documents, cut, f"data.{role}")
    return StoredWindows(documents, labels, first_subwords=role != "train")
