"""The documents of a run by role, checked as a whole before any model is loaded."""

import random
from dataclasses import dataclass
from pathlib import Path

from layoutner.config.errors import UserError, raise_gathered
from layoutner.config.settings import DataSettings
from layoutner.data.document import Document
from layoutner.data.labels import LabelSet, labels_of, read_labels
from layoutner.data.readers import READERS


@dataclass(frozen=True)
class Corpus:
    """Labelled documents: to train on, to choose checkpoints by, to score once at the end."""

    train: list[Document]
    eval: list[Document]
    test: list[Document]
    labels: LabelSet


def read_corpus(settings: DataSettings, seed: int) -> Corpus:
    """Read every role of the run.

    Raises:
        UserError: data.train is missing, a reader's problems, no labels, a label that is not in the list.
    """
    if settings.train is None:
        raise UserError("data.train is missing: the folder or file of the training documents")
    train = read_documents(settings.format, settings.train, "train")
    evaluation: list[Document] = []
    if isinstance(settings.eval, float):
        train, evaluation = split(train, settings.eval, seed)
        _demand_words(evaluation, f"data.eval = {settings.eval:g} of the training documents")
        _demand_words(train, f"what data.eval = {settings.eval:g} leaves of the training documents")
    elif settings.eval is not None:
        evaluation = read_documents(settings.format, settings.eval, "eval")
    test = [] if settings.test is None else read_documents(settings.format, settings.test, "test")
    labels = _label_set(settings, train)
    problems = []
    for role, documents in (("train", train), ("eval", evaluation), ("test", test)):
        problems += check_labels(documents, labels, role)
    raise_gathered(f"{len(problems)} label problem(s)", problems)
    return Corpus(train, evaluation, test, labels)


def read_documents(format: str, path: Path, role: str, said: str | None = None) -> list[Document]:
    """Documents of one path.

    Args:
        role: "train", "eval" or "test": the split to read where the path holds several.
        said: what the user calls the path; data.ROLE where it is a setting.

    Raises:
        UserError: no such path, a reader's problems, no document, no word in any of them.
    """
    if not path.exists():
        raise UserError(f"{said or f'data.{role}'} = {path}: no such file or folder")
    documents = READERS[format](path, role)
    _demand_words(documents, f"{said or f'data.{role}'} = {path}")
    return documents


def _demand_words(documents: list[Document], where: str) -> None:
    if not any(document.words for document in documents):
        raise UserError(f"{where}: {len(documents)} documents and not one word")


def split(documents: list[Document], fraction: float, seed: int) -> tuple[list[Document], list[Document]]:
    """Part a fraction of the documents from the rest: (the rest, the fraction), both in their old order.

    Raises:
        UserError: one of the two would be empty.
    """
    count = round(len(documents) * fraction)
    if not 0 < count < len(documents):
        raise UserError(f"data.eval = {fraction:g} of {len(documents)} documents is {count}: none would be left over")
    chosen = set(random.Random(f"{seed}/eval").sample(range(len(documents)), count))
    rest = [document for index, document in enumerate(documents) if index not in chosen]
    return rest, [document for index, document in enumerate(documents) if index in chosen]


def check_labels(documents: list[Document], labels: LabelSet, role: str) -> list[str]:
    """Problems of the tags of documents that must be labelled, by file and word."""
    problems = []
    for document in documents:
        if document.tags is None:
            problems.append(f"data.{role}: {document.name}: its words have no labels")
            continue
        for index, tag in enumerate(document.tags):
            if tag != "O" and tag.partition("-")[2] not in labels.types:
                problems.append(
                    f"data.{role}: {document.name}: word {index} {document.words[index]!r}: label {tag} is not one "
                    f"of {', '.join(labels.types)}"
                )
    return problems


def _label_set(settings: DataSettings, train: list[Document]) -> LabelSet:
    if settings.labels is not None:
        return read_labels(settings.labels, settings.scheme)
    if settings.format == "unilm" and settings.train is not None:
        folder = settings.train if settings.train.is_dir() else settings.train.parent
        if (folder / "labels.txt").is_file():
            return read_labels(folder / "labels.txt", settings.scheme)
    return labels_of(train, settings.scheme)
