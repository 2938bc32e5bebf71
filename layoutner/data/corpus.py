"""The documents of a run by role, checked as a whole before any model is loaded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from layoutner.config.errors import UserError, raise_gathered
from layoutner.config.settings import DataSettings
from layoutner.data.document import Document
from layoutner.data.labels import LabelSet, labels_of, read_labels
from layoutner.data.page import Page, Problem, Tally, to_document
from layoutner.data.readers import READERS
from layoutner.data.splits import fold, leaks, split

Labels = Literal["keep", "ignore", "demand"]  # what is done with the labels of pages that are read


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
    demand_roles(settings)
    assert settings.train is not None, "refused above"
    notes: list[str] = []
    train = _read(settings, settings.train, "train", notes)
    # Of all training documents, so that every fold and every fraction has the same labels.
    labels = _label_set(settings, train)
    test = [] if settings.test is None else _read(settings, settings.test, "test", notes)
    evaluation: list[Document] = []
    if settings.choose_by == "test":
        evaluation = test
        notes.append(f"note: the checkpoint is chosen by the {len(test)} test pages (data.choose_by = test)")
    elif settings.folds is not None and settings.fold is not None:
        train, evaluation = fold(train, settings.folds, settings.fold, seed)
        _demand_words(evaluation, f"fold {settings.fold} of {settings.folds} of the training documents")
        notes.append(f"eval: fold {settings.fold} of {settings.folds} of the training documents")
    elif isinstance(settings.eval, float):
        train, evaluation = split(train, settings.eval, seed)
        _demand_words(evaluation, f"data.eval = {settings.eval:g} of the training documents")
        _demand_words(train, f"what data.eval = {settings.eval:g} leaves of the training documents")
    elif settings.eval is not None:
        evaluation = _read(settings, settings.eval, "eval", notes)
    roles = {"train": train, "eval": evaluation, "test": test}
    if settings.choose_by == "test":
        del roles["eval"]
    if settings.test is not None or isinstance(settings.eval, Path):
        notes += leaks({role: documents for role, documents in roles.items() if documents})
    problems = []
    for role, documents in (("train", train), ("eval", evaluation), ("test", test)):
        problems += check_labels(documents, labels, role)
    file = labels_file(settings, settings.train)
    listed = f" (the labels are those of {file})" if file is not None else ""
    raise_gathered(f"{len(problems)} label problem(s){listed}", problems)
    return Corpus(train, evaluation, test, labels, tuple(notes))


def demand_roles(settings: DataSettings) -> None:
    """Refuse settings that do not say what to train on.

    Raises:
        UserError: data.train is missing, or data.folds stands without data.fold.
    """
    if settings.train is None:
        raise UserError("data.train is missing: the folder or file of the training documents")
    if settings.folds is not None and settings.fold is None:
        raise UserError(
            f"data.folds = {settings.folds} without data.fold: `layoutner cross-validate` trains all of them, "
            "and data.fold = 1 the first"
        )


def demand_path(path: Path, format: str | None, said: str) -> None:
    """Refuse a path of documents that leads nowhere.

    Args:
        format: of the documents; None where it is still to be guessed.
        said: what the user calls the path.

    Raises:
        UserError: nothing is there.
    """
    # A data set of the hub is a name, not a path.
    if format != "hub" and not path.exists():
        raise UserError(f"{said}{' ' if said.startswith('--') else ' = '}{path}: no such file or folder")


def _read(settings: DataSettings, path: Path, role: str, notes: list[str]) -> list[Document]:
    tally = Tally()
    documents = read_documents(settings, path, role, tally, labels="demand")
    notes += tally.lines(role)
    # By name, so that a seed deals the same pages whatever format, file order or file system they come from.
    return sorted(documents, key=lambda document: document.name)


def stream(
    settings: DataSettings,
    path: Path,
    role: str,
    tally: Tally,
    said: str | None = None,
    labels: Labels = "keep",
) -> Iterator[Document | list[Problem]]:
    """Documents of one path, one after the other; a page that stops the run comes as its problems.

    Args:
        role: "train", "eval" or "test": the split to read where the path holds several.
        tally: counts what data.fix repairs and data.bad_pages = skip leaves out.
        said: what the user calls the path; data.ROLE where it is a setting.
        labels: "ignore" = as if nobody had labelled a word; "demand" = a page without labels cannot be used.

    Raises:
        UserError: no such path, or nothing there that the format knows.
    """
    demand_path(path, settings.format, said or f"data.{role}")
    for page in READERS[settings.format](path, role):
        if labels == "ignore" and isinstance(page, Page):
            page = replace(page, words=[word._replace(tag=None) for word in page.words])
        document, problems = checked(page, settings, tally)
        if labels == "demand" and document is not None and document.tags is None:
            problems = [Problem(f"data.{role}: {document.name}", "no labels", "its words have no labels")]
            document = None
        if document is not None:
            for problem in problems:
                tally.repaired[f"{problem.kind} (`layoutner data check` lists them)"] += 1
            yield document
        elif settings.bad_pages == "skip":
            tally.skip(next(problem for problem in problems if problem.fatal))
        else:
            yield problems


def checked(page: Page | Problem, settings: DataSettings, tally: Tally) -> tuple[Document | None, list[Problem]]:
    """What a reader yields, as a document (None where a problem stops a run) and its problems; see `to_document`."""
    if isinstance(page, Problem):
        return None, [page]
    document, problems = to_document(page, settings.fix, tally)
    if document is not None and settings.box_level == "segment" and document.segments is None:
        what = "data.box_level = segment needs lines or fields, and this page has none; take word"
        return None, [*problems, Problem(page.source, "no segments", what)]
    return document, problems


def read_documents(
    settings: DataSettings,
    path: Path,
    role: str,
    tally: Tally | None = None,
    said: str | None = None,
    labels: Labels = "keep",
) -> list[Document]:
    """All documents of one path; see `stream`.

    Raises:
        UserError: as `stream`, and all problems of all pages, no document, no word in any of them.
    """
    documents, problems = [], []
    for found in stream(settings, path, role, tally or Tally(), said, labels):
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
    file = None if settings.train is None else labels_file(settings, settings.train)
    return labels_of(train, settings.scheme) if file is None else read_labels(file, settings.scheme)


def labels_file(settings: DataSettings, path: Path) -> Path | None:
    """The list of labels: data.labels, else the labels.txt that unilm has beside the documents; None without one."""
    if settings.labels is None and settings.format == "unilm":
        file = (path if path.is_dir() else path.parent) / "labels.txt"
        return file if file.is_file() else None
    return settings.labels
