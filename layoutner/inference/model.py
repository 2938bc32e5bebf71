"""The public model class: label or score documents with a trained model, in one process."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from layoutner.distributed.ranks import Ranks
from layoutner.documents.roles import Labels, read_documents
from layoutner.inference.input import guess_format
from layoutner.inference.labelled_page import LabelledPage, label_page
from layoutner.inference.labeller import Labelled, Labeller
from layoutner.inference.model_folder import model_folder
from layoutner.objectives.metrics import Scores
from layoutner.pages.document import Document
from layoutner.planning.batch_plan import MicroBatchLimit
from layoutner.settings.data import MAX_IMAGE_MIB
from layoutner.settings.tree import DeviceName, load

Source = Iterable[Document] | Path | str  # documents, or a file or folder of them


class Model:
    """A model made by `layoutner train` or `layoutner export`. Use `load_model` to open one."""

    def __init__(self, labeller: Labeller) -> None:
        self._labeller = labeller

    @property
    def labels(self) -> tuple[str, ...]:
        """The entity types it knows."""
        return self._labeller.labels.types

    @property
    def family(self) -> str:
        """The network family, for example "layoutlm"."""
        return self._labeller.family

    def predict(
        self, documents: Source, *, batch_size: int = 8, split: str = "test", **data: Any
    ) -> list[LabelledPage]:
        """Label every word of every document, in the order of the documents.

        Args:
            documents: Document objects, or the path of a file or folder.
            batch_size: windows per forward pass.
            split: "train", "eval" or "test": which one, if the path holds several.
            data: settings of [data] that say how the path is read, such as format="funsd". Without a format, PDFs
                and images are read by their text layers or by OCR, .jsonl files as jsonl, and all else as funsd.

        Raises:
            DataError: the documents cannot be read, or one lacks the page image that the network takes.
        """
        pages: list[LabelledPage] = []

        def take(labelled: Labelled) -> None:
            pages.extend(label_page(document, answers, self._labeller.labels) for document, answers in labelled)

        self._labeller.label(self._read(documents, split, "ignore", data), MicroBatchLimit(batch_size), take)
        return pages

    def evaluate(self, documents: Source, *, batch_size: int = 8, split: str = "test", **data: Any) -> Scores:
        """Score the model on labelled documents.

        Args:
            documents, batch_size, split, data: see `predict`.

        Raises:
            DataError: the documents cannot be read, have no labels, or have labels that the model does not know.
        """
        found = self._read(documents, split, "require", data)
        return self._labeller.evaluate(found, split, MicroBatchLimit(batch_size))

    def _read(self, documents: Source, split: str, labels: Labels, data: dict[str, Any]) -> Iterable[Document]:
        """Return Document objects unchanged; read a path with the settings of the model's training."""
        if not isinstance(documents, Path | str):
            return documents
        of_model = {"box_level": self._labeller.splitter.box_level, "ignore_types": self._labeller.ignore_types}
        return read_path(documents, split, labels, {**of_model, **data})


def read_path(path: Path | str, split: str, labels: Labels, data: dict[str, Any]) -> list[Document]:
    """Read the documents of a path.

    Args:
        split: "train", "eval" or "test": which one, if the path holds several.
        labels: see `read_documents`.
        data: settings of [data].

    Raises:
        SettingsError: a setting that [data] does not take.
        DataError: documents that cannot be read.
    """
    settings = load(None, {"data": {"format": guess_format(Path(path)), **data}}, "the arguments").data
    return read_documents(settings, Path(path), split, said="documents", labels=labels)


def load_model(folder: Path | str, *, device: DeviceName = "auto", max_image_mib: int = MAX_IMAGE_MIB) -> Model:
    """Open a trained model in this process.

    Args:
        folder: a folder made by `layoutner export`, or a run folder.
        device: "auto" takes a GPU if there is one.
        max_image_mib: data.max_image_mib, the largest page image in MiB once it is unpacked.

    Raises:
        ModelError: not a model of layoutner.
        SettingsError: device = cuda without a CUDA device.
    """
    return Model(Labeller(model_folder(Path(folder), ""), Ranks.alone(device), max_image_mib))
