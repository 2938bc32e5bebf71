"""Load an exported model and label documents with it."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layoutner.backends.loading import open_network
from layoutner.corpus.pixels import PageImages
from layoutner.corpus.splitter import WindowSplitter
from layoutner.corpus.windows import Windows
from layoutner.distributed.ranks import Ranks
from layoutner.documents.columns import page_digests
from layoutner.documents.roles import check_labels
from layoutner.errors import DataError, ModelError, raise_gathered
from layoutner.inference.input import refuse
from layoutner.models.collator import Collator
from layoutner.models.families import FAMILIES
from layoutner.models.loading import open_pages, open_tokenizer
from layoutner.models.preprocessing import PREPROCESSING_FILE, Preprocessing
from layoutner.objectives.calibration import WordLogits
from layoutner.objectives.errors import ErrorCounter
from layoutner.objectives.evaluate import Predictions, WordPrediction, evaluate, in_document_order, label_words
from layoutner.objectives.field_accuracy import FieldCounter
from layoutner.objectives.metrics import Scores
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet
from layoutner.pages.page import Problem
from layoutner.planning.batch_plan import MicroBatchLimit
from layoutner.settings.data import MAX_IMAGE_MIB
from layoutner.training.folder import read_training_pages
from layoutner.training.page_images import image_problems

# Documents are read in chunks, which are sorted by length and assigned to ranks. A chunk ends at any of these limits,
# none of which depends on the number of ranks.
CHUNK_PAGES = 256
CHUNK_WORDS = 65_536
CHUNK_S = 5.0  # seconds of reading: OCR or a live producer may be slow, and the other ranks wait

HasNext = Callable[[], bool]  # whether the next document can be had without waiting for who makes it
Labelled = list[tuple[Document, list[WordPrediction]]]  # documents, each with one prediction per word


def always() -> bool:
    """For documents that are all there."""
    return True


class Labeller:
    """An exported model with its tokenizer and preprocessing."""

    def __init__(self, folder: Path, ranks: Ranks, max_image_mib: int = MAX_IMAGE_MIB) -> None:
        """Load an export.

        Args:
            folder: folder of the export.
            ranks: the ranks.
            max_image_mib: data.max_image_mib.

        Raises:
            ModelError: not a complete export of layoutner, or it cannot be loaded.
            SettingsError: it needs a package that is not installed.
        """
        try:
            preprocessing = Preprocessing.read(folder / PREPROCESSING_FILE)
            tags = list(preprocessing.labels)
            self.labels = LabelSet.from_tags(tags)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{folder}: not a model exported by layoutner ({PREPROCESSING_FILE}: {error}); "
                "`layoutner export RUN OUT` makes one"
            ) from None
        self.family = preprocessing.family
        self.ignore_types = preprocessing.ignore_types
        self.temperature = preprocessing.temperature
        self.chosen = {"chosen_on_test": True} if preprocessing.chosen_on_test else {}
        if self.family not in FAMILIES or self.labels.tags != tags:
            raise ModelError(
                f"{folder / PREPROCESSING_FILE}: family {self.family!r} with labels {tags} is not supported"
            )
        self._training_pages = read_training_pages(folder)
        self.ranks = ranks
        self.max_image_mib = max_image_mib
        self.network = open_network(folder, preprocessing, ranks.device)
        config = self.network.config
        self.tokenizer = open_tokenizer(str(folder), self.family, config)
        self.image_processor = open_pages(str(folder), self.family, config, preprocessing.images == "use")
        if self.image_processor is not None:
            self.image_processor = PageImages(
                self.image_processor.processor, max_image_mib, CHUNK_PAGES
            )  # pages are not needed after their chunk
        special_boxes = FAMILIES[self.family].special_boxes
        self.splitter = WindowSplitter(
            self.tokenizer, preprocessing.max_length, preprocessing.stride, preprocessing.box_level, special_boxes
        )
        self._collator = Collator(
            self.family,
            self.tokenizer.pad_token_id,
            self.image_processor,
            pinned=ranks.device.type == "cuda",
            padded=not self.network.packs,
        )

    def _forward(self, inputs: dict[str, Any]) -> torch.Tensor:
        return self.network(inputs)

    def label(
        self,
        documents: Iterable[Document | None],
        limit: MicroBatchLimit,
        take: Callable[[Labelled], None],
        lost: Callable[[list[Problem]], None] = refuse,
        has_next: HasNext = always,
    ) -> None:
        """Predict a label for every word of every document, chunk by chunk in bounded memory.

        All ranks call it. Batches do not depend on the number of ranks, so neither do the predictions.

        Args:
            documents: read on rank 0 only. None stands for a page that was skipped.
            limit: the largest batch.
            take: called on rank 0 with each labelled chunk, in order. If it or reading fails, all ranks raise.
            lost: called on rank 0 with the pages without a usable image, if the network needs images. If it does not
                raise, these pages are skipped.
            has_next: called on rank 0. When it is false, the documents so far are labelled before the next is waited
                for.
        """
        for chunk in self._chunks(documents, lost, has_next):
            windows = self.splitter.split(chunk, None)
            answers, _ = label_words(
                self._forward, windows, self._collator, limit, self.ranks, temperature=self.temperature
            )
            self.ranks.run_on_rank_zero(partial(_hand_over, take, chunk, answers))

    def evaluate(
        self,
        documents: Iterable[Document | None],
        split: str,
        limit: MicroBatchLimit,
        lost: Callable[[list[Problem]], None] = refuse,
        errors: ErrorCounter | None = None,
        held: WordLogits | None = None,
    ) -> Scores:
        """Score the labelled documents of rank 0; the result is the same on every rank. `limit`, `lost`: see `label`;
        `errors`, `held`: see `evaluate`.

        counts["documents_trained_on"] is the number of pages that the model was trained on. It is missing if the model
        folder has no list of training pages.

        Raises:
            DataError: documents have no labels or labels unknown to the model, or there is no word.
        """
        trained_on: list[bool] = []
        fields = FieldCounter()
        scores = evaluate(
            self._forward,
            self._labelled_parts(self._chunks(documents, lost), split, trained_on),
            self.labels,
            split,
            self.splitter.box_level,
            self._collator,
            limit,
            self.ranks,
            errors,
            held,
            self.temperature,
            fields,
        )
        scores = replace(scores, field_accuracy=self.ranks.run_on_rank_zero(fields.to_dict))
        if self._training_pages is None:
            return scores
        return replace(scores, counts={**scores.counts, "documents_trained_on": sum(trained_on)})

    def _labelled_parts(
        self, chunks: Iterable[list[Document]], split: str, trained_on: list[bool]
    ) -> Iterator[tuple[list[Document], Windows]]:
        for chunk in chunks:
            problems = check_labels(chunk, self.labels, split)
            known = ", ".join(self.labels.types)
            raise_gathered(
                DataError, f"{len(problems)} label problem(s); the labels are those of the model, {known}", problems
            )
            if self._training_pages is not None:
                trained_on += np.isin(page_digests(chunk), self._training_pages).tolist()
            yield chunk, self.splitter.split(chunk, self.labels)

    def _chunks(
        self, documents: Iterable[Document | None], lost: Callable[[list[Problem]], None], has_next: HasNext = always
    ) -> Iterator[list[Document]]:
        """Yield the documents of rank 0 in chunks, on every rank."""
        source = iter(documents)
        while chunk := self.ranks.run_on_rank_zero(lambda: _next_chunk(source, has_next)):
            if self.image_processor is None:
                yield chunk
            elif problems := image_problems(chunk, self.image_processor, self.ranks):
                self.ranks.run_on_rank_zero(partial(lost, list(problems.values())))
                yield [document for index, document in enumerate(chunk) if index not in problems]
            else:
                yield chunk


def _next_chunk(source: Iterator[Document | None], has_next: HasNext) -> list[Document]:
    """The documents up to one of the limits, or until `has_next` is false; none at the end of the source."""
    chunk: list[Document] = []
    words = 0
    until = time.monotonic() + CHUNK_S
    for document in source:
        if document is not None:
            chunk.append(document)
            words += len(document.words)
        full = len(chunk) >= CHUNK_PAGES or words >= CHUNK_WORDS or time.monotonic() > until
        if chunk and (full or not has_next()):
            break
    return chunk


def _hand_over(take: Callable[[Labelled], None], chunk: list[Document], answers: Predictions) -> None:
    ordered = in_document_order(answers, chunk)
    take([(document, ordered.of(number)) for number, document in enumerate(chunk)])
