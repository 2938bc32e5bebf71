"""The documents of a run by role, checked as a whole before any model is loaded."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from layoutner.config.errors import UserError, raise_gathered
from layoutner.config.settings import DataSettings
from layoutner.data.document import Document
from layoutner.data.labels import LabelSet, labels_of, read_labels
from layoutner.data.page import Problem, Tally, to_document
from layoutner.data.readers import READERS


@dataclass(frozen=True)
class Corpus:
    """Labelled documents: to train on, to choose checkpoints by, to score once at the end."""

    train: list[Document]
    eval: list[Document]
    test: list[Document]
    labels: LabelSet
    notes: tuple[str, ...] = ()  # what was repaired and left out, for the run's log


def read_corpus(settings: DataSettings, seed: int) -> Corpus:
    """Read every role of the run.

    Raises:
        UserError: data.train is missing, a reader's problems, no labels, a label that is not in the list.
    """
    if settings.train is None:
        raise UserError("data.train is missing: the folder or file of the training documents")
    notes: list[str] = []
    train = _read(settings, settings.train, "train", notes)
    evaluation: list[Document] = []
    if isinstance(settings.eval, float):
        train, evaluation = split(train, settings.eval, seed)
        _demand_words(evaluation, f"data.eval = {settings.eval:g} of the training documents")
        _demand_words(train, f"what data.eval = {settings.eval:g} leaves of the training documents")
    elif settings.eval is not None:
        evaluation = _read(settings, settings.eval, "eval", notes)
    test = [] if settings.test is None else _read(settings, settings.test, "test", notes)
    labels = _label_set(settings, train)
    problems = []
    for role, documents in (("train", train), ("eval", evaluation), ("test", test)):
        problems += check_labels(documents, labels, role)
    raise_gathered(f"{len(problems)} label problem(s)", problems)
    return Corpus(train, evaluation, test, labels, tuple(notes))


def _read(settings: DataSettings, path: Path, role: str, notes: list[str]) -> list[Document]:
    tally = Tally()
    documents = read_documents(settings, path, role, tally)
    notes += tally.lines(role)
    return documents


def stream(
    settings: DataSettings, path: Path, role: str, tally: Tally, said: str | None = None
) -> Iterator[Document | list[Problem]]:
    """Documents of one path, one after the other; a page that stops the run comes as its problems.

    Args:
        role: "train", "eval" or "test": the split to read where the path holds several.
        tally: counts what data.fix repairs and data.bad_pages = skip leaves out.
        said: what the user calls the path; data.ROLE where it is a setting.

    Raises:
        UserError: no such path, or nothing there that the format knows.
    """
    # A data set of the hub is a name, not a path.
    if settings.format != "hub" and not path.exists():
        raise UserError(f"{said or f'data.{role}'} = {path}: no such file or folder")
    for page in READERS[settings.format](path, role):
        if isinstance(page, Problem):
            document, problems = None, [page]
        else:
            document, problems = to_document(page, settings.fix, tally)
            if document is not None and settings.box_level == "segment" and document.segments is None:
                what = "data.box_level = segment needs lines or fields, and this page has none; take word"
                document, problems = None, [Problem(page.source, "no segments", what)]
        if document is not None:
            yield document
        elif settings.bad_pages == "skip":
            tally.skip(problems[0])
        else:
            yield problems


def read_documents(
    settings: DataSettings, path: Path, role: str, tally: Tally | None = None, said: str | None = None
) -> list[Document]:
    """All documents of one path; see `stream`.

    Raises:
        UserError: as `stream`, and all problems of all pages, no document, no word in any of them.
    """
    documents, problems = [], []
    for found in stream(settings, path, role, tally or Tally(), said):
        if isinstance(found, Document):
            documents.append(found)
        else:
            problems += [str(problem) for problem in found if problem.fatal]
    raise_gathered(f"{len(problems)} problem(s) in {path}", problems)
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
