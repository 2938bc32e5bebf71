"""A trained model folder, ready to label documents."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForTokenClassification

from layoutner.config.errors import UserError, first_line, raise_gathered
from layoutner.data.batches import Batch
from layoutner.data.corpus import check_labels
from layoutner.data.document import Document
from layoutner.data.labels import LabelSet
from layoutner.data.windows import Windower
from layoutner.model.families import FAMILIES, model_inputs, open_tokenizer
from layoutner.training.evaluate import WordLabel, evaluate, in_document_order, label_words
from layoutner.training.folder import PREPROCESSING_FILE
from layoutner.training.metrics import Scores
from layoutner.training.world import World


class Labeller:
    """The exported model, its tokenizer and its preprocessing."""

    def __init__(self, folder: Path, world: World) -> None:
        """Load an export.

        Raises:
            UserError: not an export of layoutner, or its weights do not fit.
        """
        try:
            preprocessing: dict[str, Any] = json.loads((folder / PREPROCESSING_FILE).read_text(encoding="utf-8"))
            self.family: str = preprocessing["family"]
            tags: list[str] = preprocessing["labels"]
            self.labels = LabelSet.from_tags(tags)
            max_length, stride = preprocessing["max_length"], preprocessing["stride"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder}: not a model exported by layoutner ({PREPROCESSING_FILE}: {error}); "
                "`layoutner export RUN OUT` makes one"
            ) from None
        if self.family not in FAMILIES or self.labels.tags != tags:
            raise UserError(
                f"{folder / PREPROCESSING_FILE}: family {self.family!r} with labels {tags} is not known here"
            )
        self.world = world
        # Weights stay in the number format they were trained in, so that scores repeat; a CPU computes fp16 in fp32.
        try:
            model, report = AutoModelForTokenClassification.from_pretrained(
                folder, dtype="auto", output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise UserError(f"{folder}: its network cannot be loaded: {first_line(error)}") from None
        lost = sorted(name for name in report["missing_keys"] if "pooler" not in name)
        if lost or model.config.num_labels != len(tags):
            raise UserError(
                f"{folder}: not a whole export: {len(lost)} weights are missing {lost[:10]}, "
                f"{model.config.num_labels} outputs for {len(tags)} labels"
            )
        self.tokenizer = open_tokenizer(str(folder), self.family, model.config.vocab_size)
        self.windower = Windower(self.tokenizer, max_length, stride)
        if world.device.type == "cpu" and model.dtype == torch.float16:
            model = model.float()
        self.model = model.to(world.device).eval()

    def _forward(self, batch: Batch) -> torch.Tensor:
        logits: torch.Tensor = self.model(**model_inputs(self.family, batch, self.world.device)).logits
        return logits

    def label(self, documents: Sequence[Document], batch_windows: int) -> list[list[WordLabel]] | None:
        """One answer for every word of every document, on rank 0; None elsewhere."""
        windows = self.windower.windows(documents, None)
        answers, _ = label_words(self._forward, windows, batch_windows, self.tokenizer.pad_token_id, self.world)
        return in_document_order(answers, documents) if self.world.is_main else None

    def evaluate(self, documents: Sequence[Document], split: str, batch_windows: int) -> Scores:
        """Scores of labelled documents.

        Raises:
            UserError: documents without labels, or with labels the model does not know.
        """
        problems = check_labels(list(documents), self.labels, split)
        raise_gathered(f"{len(problems)} label problem(s)", problems)
        return evaluate(
            self._forward,
            documents,
            self.windower.windows(documents, self.labels),
            self.labels,
            split,
            batch_windows,
            self.tokenizer.pad_token_id,
            self.world,
        )
