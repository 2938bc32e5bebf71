"""Everything a run derives before a model is loaded, so that what is wrong is said before a GPU is held."""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layoutner.corpus.batches import assign_to_ranks, padded, step_windows
from layoutner.corpus.cache import WindowCache
from layoutner.corpus.windows import Window, WindowSplitter
from layoutner.distributed.watchdog import Kind
from layoutner.documents.duplicates import page_digest
from layoutner.documents.roles import Corpus, read_corpus, require_predictions
from layoutner.errors import DataError, raise_gathered
from layoutner.models.families import FAMILIES
from layoutner.models.loading import PretrainedModel, open_pretrained
from layoutner.objectives.loss import Loss, make_loss
from layoutner.planning.batch_plan import BatchPlan, plan_batch
from layoutner.planning.render import render
from layoutner.planning.schedule import Schedule, plan_schedule
from layoutner.settings.tree import Settings
from layoutner.training.checkpoint import Identity
from layoutner.training.folder import read_training_pages
from layoutner.training.tracking import require_packages

Doing = Callable[[Kind, str], AbstractContextManager[None]]  # Ranks.activity

# Of a checkpoint's configuration: what its weights' shapes follow from.
NETWORK = ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")


@dataclass(frozen=True)
class Plan:
    """A run, worked out."""

    settings: Settings
    corpus: Corpus
    pretrained: PretrainedModel
    windows: dict[str, list[Window]]  # by role
    loss: Loss
    batch: BatchPlan
    schedule: Schedule
    ds_config: dict[str, Any]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How documents become the network's input: what a trained model needs beside weights and tokenizer."""
        data, labels = self.settings.data, self.corpus.labels
        return {
            "family": self.pretrained.family,
            "scheme": labels.scheme,
            "labels": labels.tags,
            "max_length": data.max_length,
            "stride": data.stride,
            "box_level": data.box_level,
            "images": "ignore" if self.pretrained.image_processor is None else "use",
            **({"ignore_types": list(data.ignore_types)} if data.ignore_types else {}),
            **({"chosen_on_test": True} if data.selection_split == "test" else {}),
        }

    @property
    def training_pages(self) -> list[str]:
        """Digests of the pages trained on, those of the model that training starts from among them."""
        start = read_training_pages(Path(self.pretrained.name)) or frozenset()
        return sorted(start | {page_digest(document) for document in self.corpus.train})

    @property
    def identity(self) -> Identity:
        """What a checkpoint remembers. Ranks, ZeRO stage and micro-batch may change: they compute the same."""
        settings = self.settings
        return Identity(
            must_match={
                "network": {key: getattr(self.pretrained.config, key, None) for key in NETWORK},
                "precision": settings.precision.model_dump(mode="json"),
                "global_batch_size": self.batch.global_batch_size,
                "seed": settings.run.seed,
                "optimizer": settings.optimizer.model_dump(mode="json", exclude={"lr", "max_grad_norm"}),
                "loss": settings.loss.model_dump(mode="json"),
                "preprocessing": self.preprocessing,
                "training_windows": _digest(
                    (window.document, window.input_ids, window.boxes, window.labels) for window in self.windows["train"]
                ),
                "eval_documents": _digest((d.name, d.words, d.boxes, d.tags) for d in self.corpus.eval),
            },
            settings=settings.model_dump(mode="json"),
            world_size=self.batch.world_size,
        )

    def describe(self) -> str:
        """The arithmetic of the run, for its first lines."""
        lines = []
        for role in ("train", "eval", "test"):
            documents, windows = getattr(self.corpus, role), self.windows[role]
            if documents:
                words = sum(len(document.words) for document in documents)
                tokens = sum(window.length for window in windows)
                lines.append(
                    f"{role}: {len(documents)} documents, {words} words, {len(windows)} windows, {tokens} tokens"
                )
        lines += self.corpus.notes
        labels = self.corpus.labels
        lines.append(f"labels: {len(labels.tags)} in {labels.scheme}: O and {', '.join(labels.types)}")
        if self.settings.data.label_all_subwords:
            labelled = sum(window.labelled for window in self.windows["train"])
            lines.append(f"labelled: every sub-word, {labelled} tokens an epoch")
        if self.loss.smoothing or self.loss.weights:
            lines.append(f"loss: {self.loss.describe(labels.tags)}")
        lines += [f"batch: {self.batch}", *self.batch.notes]
        if not self.corpus.eval:
            lines.append("note: no data.eval, so checkpoints are not compared and the last one is the chosen one")
        if self.batch.global_batch_size >= len(self.windows["train"]):
            lines.append(
                f"note: a step takes all {len(self.windows['train'])} training windows, so an epoch is one step "
                "(full-batch descent); a smaller batch.global_batch_size makes more of the data"
            )
        lines.append(f"schedule: {self.schedule}; peak learning rate {self.settings.optimizer.lr:g}")
        stage = self.ds_config["zero_optimization"]["stage"]
        lines.append(
            f"engine: {self.settings.precision.dtype}, ZeRO {stage}, {self._padding():.1%} of a forward is padding"
        )
        return "\n".join(lines)

    def _padding(self) -> float:
        """Share of padding in the first epoch's forwards."""
        lengths = [window.length for window in self.windows["train"]]
        tokens = 0
        for step in range(self.schedule.steps_an_epoch or 0):
            indices = step_windows(self.settings.run.seed, 0, step, len(lengths), self.batch.global_batch_size)
            for forwards in assign_to_ranks(indices, lengths, self.batch.micro_batch_size, self.batch.world_size):
                tokens += sum(len(one) * padded(max(lengths[i] for i in one)) for one in forwards if one)
        return 1 - sum(lengths) / tokens


def _digest(rows: Iterable[object]) -> str:
    """Tells other data from the same."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def _unwatched(_: Kind, __: str) -> AbstractContextManager[None]:
    return nullcontext()


def make_plan(settings: Settings, world_size: int, doing: Doing = _unwatched) -> Plan:
    """Read the data, look at the checkpoint and do the arithmetic.

    Args:
        doing: tells the other ranks what this one does.

    Raises:
        LayoutnerError: anything the user can mend, in data, checkpoint, batch, schedule, preset or installed packages.
    """
    require_packages(settings)
    require_predictions(settings)
    batch = plan_batch(settings.batch.global_batch_size, settings.batch.micro_batch_size, world_size)
    corpus, pretrained, windows = cut_windows(settings, doing)
    schedule = plan_schedule(settings.schedule, settings.batch.global_batch_size, len(windows["train"]))
    ds_config = render(settings, batch, schedule)
    loss = make_loss(settings.loss, windows["train"], len(corpus.labels.tags))
    return Plan(settings, corpus, pretrained, windows, loss, batch, schedule, ds_config)


def cut_windows(
    settings: Settings, doing: Doing = _unwatched
) -> tuple[Corpus, PretrainedModel, dict[str, list[Window]]]:
    """Documents of every role, and their windows by the checkpoint's tokenizer, cut or out of data.cache."""
    cache = WindowCache(settings.data.cache)
    corpus = read_corpus(settings.data, settings.run.seed)
    pretrained = open_pretrained(settings.model, settings.data.max_image_mib)
    pretrained.require_length(settings.data.max_length)
    roles = ("train", "eval", "test")
    if pretrained.image_processor is not None:
        documents = [document for role in roles for document in getattr(corpus, role)]
        problems = [f"{document.name}: has no page image" for document in documents if document.image is None]
        raise_gathered(
            DataError,
            f"{len(problems)} of {len(documents)} documents lack a page image that {pretrained.family} takes "
            "(model.images = ignore does without, if the family can)",
            problems,
        )
    splitter = WindowSplitter(
        pretrained.tokenizer,
        settings.data.max_length,
        settings.data.stride,
        settings.data.box_level,
        FAMILIES[pretrained.family].special_boxes,
    )
    # Scores read words by their first sub-word, so that is all that evaluation labels.
    everywhere = {"train": settings.data.label_all_subwords}
    # With a cache not "local": the ranks of another node may have the windows kept and wait long for these.
    with doing("main" if settings.data.cache else "local", "cutting windows"):
        windows = {
            role: cache.windows(splitter, getattr(corpus, role), corpus.labels, everywhere.get(role, False))
            for role in roles
        }
    return replace(corpus, notes=(*corpus.notes, *cache.notes)), pretrained, windows
