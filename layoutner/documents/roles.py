"""Read the documents of a run by role (train, eval, test) and check them, before a model is loaded."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from layoutner.documents.checker import PageChecker
from layoutner.documents.columns import Documents, word_counts
from layoutner.documents.splits import fold, leaks, name_note, split
from layoutner.documents.store import Store, StoredDocuments, is_store
from layoutner.errors import DataError, SettingsError, raise_gathered
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet, labels_of, read_labels, to_spans, types_like_no_entity
from layoutner.pages.page import Page, Problem, ReadStats
from layoutner.progress import counted
from layoutner.readers import read_pages
from layoutner.settings.data import DataSettings
from layoutner.settings.tree import Settings

Labels = Literal["keep", "ignore", "require"]  # how to treat the labels of pages; see `stream`


@dataclass(frozen=True)
class Corpus:
    """Labelled documents for training (train), checkpoint selection (eval) and the final score (test)."""

    train: Sequence[Document]
    eval: Sequence[Document]
    test: Sequence[Document]
    labels: LabelSet
    notes: tuple[str, ...] = ()  # log lines: repairs, skipped pages and hints


def read_corpus(settings: DataSettings, seed: int) -> Corpus:
    """Read every role of the run.

    Raises:
        SettingsError: data.train is missing, or a split of it would be empty.
        DataError: pages cannot be read, or have no labels or unknown labels.
    """
    require_roles(settings)
    assert settings.train is not None, "refused above"
    notes: list[str] = []
    ignored: Counter[str] = Counter()
    train = _read(settings, settings.train, "train", notes, ignored)
    if not isinstance(train, Documents):  # a store has its own notes
        types = Counter(span.type for document in train for span in to_spans(document.tags or ()))
        notes += [f"note: {note}" for note in (name_note(train), type_note(types)) if note is not None]
    # Labels of all training documents, so that every fold and every fraction has the same label set.
    labels = _label_set(settings, train)
    test: Sequence[Document] = []
    if settings.test is not None:
        test = _read(settings, settings.test, "test", notes, ignored)
    evaluation: Sequence[Document] = []
    if settings.selection_split == "test":
        evaluation = test
        notes.append(f"note: the checkpoint is chosen by the {len(test)} test pages (data.selection_split = test)")
    elif settings.folds is not None and settings.fold is not None:
        train, evaluation = fold(train, settings.folds, settings.fold, seed)
        _require_words(evaluation, f"fold {settings.fold} of {settings.folds} of the training documents")
        notes.append(f"eval: fold {settings.fold} of {settings.folds} of the training documents")
    elif isinstance(settings.eval, float):
        train, evaluation = split(train, settings.eval, seed)
        _require_words(evaluation, f"data.eval = {settings.eval:g} of the training documents")
        _require_words(train, f"what data.eval = {settings.eval:g} leaves of the training documents")
    elif settings.eval is not None:
        evaluation = _read(settings, settings.eval, "eval", notes, ignored)
    require_ignored(settings, ignored)
    roles = {"train": train, "eval": evaluation, "test": test}
    if settings.selection_split == "test":
        del roles["eval"]
    if settings.test is not None or isinstance(settings.eval, Path):
        notes += leaks({role: documents for role, documents in roles.items() if documents})
    problems = []
    for role, documents in (("train", train), ("eval", evaluation), ("test", test)):
        problems += check_labels(documents, labels, role)
    file = labels_file(settings, settings.train)
    if file is not None:
        advice = f"those of {file}, {', '.join(labels.types)}: add the missing ones there"
    else:
        advice = (
            f"those of the training documents, {', '.join(labels.types)}; data.labels = FILE can list more, which "
            "are scored though the training data has none of them"
        )
    raise_gathered(
        DataError,
        f"{len(problems)} label problem(s); the labels are {advice}, or read types as O with data.ignore_types",
        problems,
    )
    return Corpus(train, evaluation, test, labels, tuple(notes))


def require_roles(settings: DataSettings) -> None:
    """Refuse settings that do not say what to train on.

    Raises:
        SettingsError: data.train is missing, or data.folds is set without data.fold.
    """
    if settings.train is None:
        raise SettingsError("data.train is missing: the folder or file of the training documents")
    if settings.folds is not None and settings.fold is None:
        raise SettingsError(
            f"data.folds = {settings.folds} without data.fold: use `layoutner cross-validate` to train all folds, "
            "or give data.fold, such as data.fold = 1 for the first"
        )


def require_predictions(settings: Settings) -> None:
    """Refuse run.predictions without documents to label.

    Raises:
        SettingsError: run.predictions is set and data.test is not.
    """
    if settings.run.predictions != "none" and settings.data.test is None:
        raise SettingsError(f"run.predictions = {settings.run.predictions} needs data.test, the documents to label")


def require_path(path: Path, format: str | None, said: str) -> None:
    """Refuse a path of documents that does not exist.

    Args:
        format: of the documents; None if it is still to be guessed.
        said: name of the path in messages, such as "data.train".

    Raises:
        DataError: the path does not exist.
    """
    # For a dataset on the hub, `path` is a name.
    if format != "hub" and not path.exists():
        raise DataError(f"{said}{' ' if said.startswith('--') else ' = '}{path}: no such file or folder")


def _read(settings: DataSettings, path: Path, role: str, notes: list[str], ignored: Counter[str]) -> Sequence[Document]:
    if is_store(path):
        store = Store(path)
        store.require_read_as(settings, f"data.{role}")
        notes += [f"{role}: {note}" for note in store.manifest.notes]
        ignored.update(store.manifest.ignored)
        return StoredDocuments(store)
    stats = ReadStats()
    documents = read_documents(settings, path, role, stats, labels="require")
    notes += stats.lines(role)
    ignored.update(stats.ignored)
    # Sort by name, so that a seed splits the same pages in the same way for any format, file order or file system.
    return sorted(documents, key=lambda document: document.name)


def stream(
    settings: DataSettings,
    path: Path,
    role: str,
    stats: ReadStats,
    said: str | None = None,
    labels: Labels = "keep",
) -> Iterator[Document | list[Problem]]:
    """Yield the documents of one path, one at a time. For a page that cannot be used, yield its problems instead.

    With data.bad_pages = skip, such pages are counted in `stats` and skipped: they yield no problem, an empty list.

    Args:
        role: "train", "eval" or "test": the split to read if the path contains several.
        stats: counts the repairs of data.invalid_boxes and the pages skipped by data.bad_pages = skip.
        said: name of the path in messages; default: data.ROLE.
        labels: "keep" = read labels if there are any; "ignore" = drop all labels; "require" = a page without labels
            cannot be used.

    Raises:
        DataError: the path does not exist, contains nothing in this format, or a problem of the whole split is fatal.
    """
    require_path(path, settings.format, said or f"data.{role}")
    if is_store(path):
        yield from _stored(settings, path, said or f"data.{role}", labels)
        return
    checker = PageChecker(settings, stats)
    for page in counted(read_pages(settings, path, role), f"reading {role} documents", unit="pages"):
        if isinstance(page, Problem) and not page.fatal:
            stats.notes.append(str(page))
            continue
        if labels == "ignore" and isinstance(page, Page):
            page = replace(page, words=[word._replace(tag=None) for word in page.words])
        document, problems = checker.check(page)
        if labels == "require" and document is not None and document.tags is None:
            problems = [Problem(f"data.{role}: {document.name}", "no labels", "its words have no labels")]
            document = None
        if document is not None:
            for problem in problems:
                stats.repaired[f"{problem.kind} (`layoutner data check` lists them)"] += 1
            yield document
        elif settings.bad_pages == "skip":
            stats.skip(next(problem for problem in problems if problem.fatal))
            yield []
        else:
            yield problems
    problems = checker.finish(path)
    stats.notes += [str(problem) for problem in problems if not problem.fatal]
    raise_gathered(DataError, f"data.{role}", [str(problem) for problem in problems if problem.fatal])


def _stored(settings: DataSettings, path: Path, said: str, labels: Labels) -> Iterator[Document]:
    """Yield the documents of a store in the order of its files."""
    store = Store(path)
    store.require_read_as(settings, said)
    for document in StoredDocuments(store).in_file_order():
        yield replace(document, tags=None) if labels == "ignore" else document


def read_documents(
    settings: DataSettings,
    path: Path,
    role: str,
    stats: ReadStats | None = None,
    said: str | None = None,
    labels: Labels = "keep",
) -> list[Document]:
    """All documents of one path; see `stream`.

    Raises:
        DataError: as `stream`; a page cannot be used (all problems of all pages are listed); or there is no word.
    """
    documents, problems = [], []
    stats = stats or ReadStats()
    for found in stream(settings, path, role, stats, said, labels):
        if isinstance(found, Document):
            documents.append(found)
        else:
            problems += [str(problem) for problem in found if problem.fatal]
    advice = "data.bad_pages = skip leaves such pages out"
    raise_gathered(DataError, f"{len(problems)} problem(s) in {path} ({advice})", problems)
    why = f"; {stats.skipped} left out, the first: {stats.first_skipped}" if stats.skipped else ""
    _require_words(documents, f"{said or f'data.{role}'} = {path}", why)
    return documents


def _require_words(documents: Sequence[Document], where: str, why: str = "") -> None:
    if not word_counts(documents).any():
        raise DataError(f"{where}: {len(documents)} documents and not one word{why}")


def check_labels(documents: Sequence[Document], labels: LabelSet, role: str) -> list[str]:
    """Problems with the tags of labelled documents, one line for each page without labels and each unknown type."""
    known = set(labels.types)
    if isinstance(documents, Documents) and documents.types <= known:
        return []
    problems = []
    first: dict[str, str] = {}  # unknown type -> its first word
    words: Counter[str] = Counter()
    for document in documents:
        if document.tags is None:
            problems.append(f"data.{role}: {document.name}: its words have no labels")
            continue
        for index, tag in enumerate(document.tags):
            kind = tag.partition("-")[2]
            if kind and kind not in known:
                first.setdefault(kind, f"{document.name}: word {index} {document.words[index]!r}")
                words[kind] += 1
    problems += [
        f"data.{role}: {kind} is not one of the labels; {words[kind]} word(s) have it, the first: {where}"
        for kind, where in sorted(first.items())
    ]
    return problems


def type_note(counts: Counter[str]) -> str | None:
    """A note on types whose names mean "no entity", such as OTHER; None if there are none.

    Args:
        counts: type -> number of entities.
    """
    if not (found := types_like_no_entity(counts)):
        return None
    named = ", ".join(f"{kind} ({counts[kind]} of {counts.total()} entities)" for kind in found)
    return (
        f"{named} looks like a label for words outside entities, but is trained and scored as an entity type; "
        f"data.ignore_types = {','.join(found)} reads it as O"
    )


def require_ignored(settings: DataSettings, ignored: Counter[str]) -> None:
    """Refuse a type of data.ignore_types that no page has.

    Args:
        ignored: type -> number of words with that type.

    Raises:
        SettingsError: no word has one of the types.
    """
    seen = {kind.casefold() for kind in ignored}
    if unseen := [kind for kind in settings.ignore_types if kind.casefold() not in seen]:
        raise SettingsError(f"data.ignore_types = {','.join(unseen)}: no page has a word of that type; remove it")


def _label_set(settings: DataSettings, train: Sequence[Document]) -> LabelSet:
    if isinstance(train, StoredDocuments) and settings.labels is None:
        return LabelSet(settings.scheme, train.store.manifest.types)
    file = None if settings.train is None else labels_file(settings, settings.train)
    return label_set(settings, file, train)


def label_set(settings: DataSettings, file: Path | None, documents: Iterable[Document]) -> LabelSet:
    """The label set of a labels file, else of labelled documents.

    Raises:
        SettingsError: data.ignore_types leaves none of the file's labels.
        DataError: the file cannot be read, or the documents hold no entity.
    """
    if file is None:
        return labels_of(documents, settings.scheme)
    labels = read_labels(file, settings.scheme)
    ignored = {kind.casefold() for kind in settings.ignore_types}
    kept = tuple(kind for kind in labels.types if kind.casefold() not in ignored)
    if not kept:
        raise SettingsError(f"{file}: data.ignore_types = {','.join(settings.ignore_types)} removes all of its labels")
    return replace(labels, types=kept)


def labels_file(settings: DataSettings, path: Path) -> Path | None:
    """The labels file: data.labels; else, in the unilm format, labels.txt in the documents' folder; else None."""
    if settings.labels is None and settings.format == "unilm":
        file = (path if path.is_dir() else path.parent) / "labels.txt"
        return file if file.is_file() else None
    return settings.labels
