"""The public model class: label or score documents with a trained model, in one process."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, overload

from layoutner.distributed.ranks import Ranks
from layoutner.documents.roles import Labels, read_documents
from layoutner.errors import DataError
from layoutner.fields.normaliser import find_normalisers
from layoutner.fields.record import Rules
from layoutner.inference.input import guess_format
from layoutner.inference.labelled_page import LabelledPage, label_page
from layoutner.inference.labeller import Labelled, Labeller
from layoutner.inference.model_folder import model_folder
from layoutner.inference.result import Result, make_results
from layoutner.objectives.metrics import Scores
from layoutner.pages.document import Document
from layoutner.planning.batch_plan import MicroBatchLimit
from layoutner.settings.data import MAX_IMAGE_MIB
from layoutner.settings.tree import DeviceName, load

Source = Iterable[Document] | Path | str  # documents, or a file or folder of them
Item = Document | Path | str  # a page, or a file of one document


class Model:
    """A model made by `layoutner train` or `layoutner export`. Use `load_model` to open one.

    Threads may share one: files are read at the same time, and the network labels for one thread after the other.
    """

    def __init__(self, labeller: Labeller) -> None:
        self._labeller = labeller
        self._one_at_a_time = Lock()  # the network takes all cores for one call, and tokenizers keep state

    @property
    def labels(self) -> tuple[str, ...]:
        """The entity types it knows."""
        return self._labeller.labels.types

    @property
    def family(self) -> str:
        """The network family, for example "layoutlm"."""
        return self._labeller.family

    @overload
    def __call__(
        self,
        item: Item,
        *,
        normalisers: Mapping[str, str] | None = None,
        min_confidence: float = 0.0,
        batch_size: int = 8,
        **data: Any,
    ) -> Result: ...
    @overload
    def __call__(
        self,
        item: Sequence[Item],
        *,
        normalisers: Mapping[str, str] | None = None,
        min_confidence: float = 0.0,
        batch_size: int = 8,
        **data: Any,
    ) -> list[Result]: ...
    def __call__(
        self,
        item: Item | Sequence[Item],
        *,
        normalisers: Mapping[str, str] | None = None,
        min_confidence: float = 0.0,
        batch_size: int = 8,
        **data: Any,
    ) -> Result | list[Result]:
        """The fields of a document, or of several that are labelled together.

        Args:
            item: the path of a file that holds one document, or a Document; or a list of these. Document objects are
                pages: those of one list with the same `group` are one document.
            normalisers: entity type -> name of its normaliser, such as {"TOTAL": "amount"}; see `NORMALISERS`.
            min_confidence: fields below it have a `problem`.
            batch_size, data: see `predict`.

        Returns:
            One result for one item. For a list: the results in its order, one per file and one per document of pages.

        Raises:
            SettingsError: an unknown normaliser or entity type.
            DataError: a file cannot be read, or holds several documents, which `extract` takes.
        """
        rules = self._rules(normalisers, min_confidence)
        if isinstance(item, Document | Path | str):
            (result,) = self(
                [item], normalisers=normalisers, min_confidence=min_confidence, batch_size=batch_size, **data
            )
            return result
        read = [[one] if isinstance(one, Document) else list(self._read(one, "test", "ignore", data)) for one in item]
        pages = iter(self.predict([page for pages in read for page in pages], batch_size=batch_size))
        results: list[Result] = []
        loose: list[LabelledPage] = []  # pages that were given as Document objects one after the other
        for one, documents in zip(item, read, strict=True):
            labelled = [next(pages) for _ in documents]
            if isinstance(one, Document):
                loose += labelled
                continue
            results += make_results(loose, self.labels, rules)
            loose = []
            found = make_results(labelled, self.labels, rules)
            if len(found) != 1:
                raise DataError(f"{one}: holds {len(found)} documents; `model.extract` gives one result for each")
            results += found
        return results + make_results(loose, self.labels, rules)

    def extract(
        self,
        documents: Source,
        *,
        normalisers: Mapping[str, str] | None = None,
        min_confidence: float = 0.0,
        batch_size: int = 8,
        split: str = "test",
        **data: Any,
    ) -> list[Result]:
        """The fields of every document of a file or folder, in the order of their first pages.

        Args:
            documents, batch_size, split, data: see `predict`. Pages with the same `group` are one document.
            normalisers, min_confidence: see `__call__`.

        Raises:
            SettingsError: an unknown normaliser or entity type.
            DataError: see `predict`.
        """
        rules = self._rules(normalisers, min_confidence)
        return make_results(self.predict(documents, batch_size=batch_size, split=split, **data), self.labels, rules)

    def _rules(self, normalisers: Mapping[str, str] | None, min_confidence: float) -> Rules:
        return Rules(find_normalisers(normalisers or {}, self.labels), min_confidence)

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

        found = self._read(documents, split, "ignore", data)
        with self._one_at_a_time:
            self._labeller.label(found, MicroBatchLimit(batch_size), take)
        return pages

    def evaluate(self, documents: Source, *, batch_size: int = 8, split: str = "test", **data: Any) -> Scores:
        """Score the model on labelled documents.

        Args:
            documents, batch_size, split, data: see `predict`.

        Raises:
            DataError: the documents cannot be read, have no labels, or have labels that the model does not know.
        """
        found = self._read(documents, split, "require", data)
        with self._one_at_a_time:
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
