"""`layoutner data check`: count the documents of a path and list their problems, per page and as a whole."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from layoutner.documents.checker import PageChecker
from layoutner.documents.duplicates import compare, sketches
from layoutner.documents.roles import labels_file, type_note
from layoutner.documents.splits import name_note
from layoutner.documents.store import Store, StoredDocuments, is_store
from layoutner.errors import DataError, NoSplitError
from layoutner.pages.document import Document
from layoutner.pages.labels import read_labels, to_spans
from layoutner.pages.page import Page, Problem, ReadStats
from layoutner.readers import ROLES, read_pages
from layoutner.settings.data import DataSettings

SHOWN = 10  # number of problems of one kind that are printed; the rest is only counted
CountWindows = Callable[[Sequence[Document]], tuple[int, int]]

WHOLE = "all"  # role of a path without splits


@dataclass
class Split:
    """The documents of one role, with their problems and counts."""

    documents: Sequence[Document] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)  # names of the documents in messages
    problems: list[Problem] = field(default_factory=list)
    stats: ReadStats = field(default_factory=ReadStats)
    unusable: int = 0  # pages that cannot be read or have a fatal problem
    windows: int | None = None  # None without a tokenizer
    tokens: int | None = None  # special tokens included

    @property
    def fatal(self) -> int:
        """Number of problems that would stop a run."""
        return sum(problem.fatal for problem in self.problems)

    @property
    def entities(self) -> Counter[str]:
        """Type -> number of entities, as training reads the tags."""
        return Counter(span.type for document in self.documents for span in to_spans(document.tags or ()))

    def counts(self) -> dict[str, int | None]:
        """The numbers of this split's row in the table."""
        return {
            "documents": len(self.documents),
            "unusable": self.unusable,
            "unlabelled": sum(document.tags is None for document in self.documents),
            "words": sum(len(document.words) for document in self.documents),
            "windows": self.windows,
            "tokens": self.tokens,
            "entities": self.entities.total(),
        }


class Twin(NamedTuple):
    """Two identical or near-identical pages."""

    role: str
    source: str
    other_role: str
    other_source: str
    identical: bool

    def __str__(self) -> str:
        how = "identical" if self.identical else "near-identical"
        return f"{self.role} {self.source} and {self.other_role} {self.other_source}: {how}"


@dataclass(frozen=True)
class Report:
    """The result of `check` for a path."""

    path: Path
    format: str
    splits: dict[str, Split]  # by role
    twins: list[Twin]
    parted: dict[str, dict[str, int]]  # documents with pages in several splits: group -> role -> pages
    notes: list[str]  # of all splits together

    @property
    def fatal(self) -> int:
        """Number of problems that would stop a run."""
        return sum(split.fatal for split in self.splits.values())

    def to_dict(self) -> dict[str, Any]:
        """The complete report, for programs."""
        return {
            "path": str(self.path),
            "format": self.format,
            "fatal": self.fatal,
            "splits": {
                role: {
                    **split.counts(),
                    "entities": dict(sorted(split.entities.items())),
                    "repaired": dict(sorted(split.stats.repaired.items())),
                }
                for role, split in self.splits.items()
            },
            "problems": [
                {"role": role, **problem._asdict()} for role, split in self.splits.items() for problem in split.problems
            ],
            "duplicates": [twin._asdict() for twin in self.twins],
            "groups_in_several_splits": self.parted,
            "notes": self.notes,
        }

    def to_json(self) -> str:
        """`to_dict` as JSON in ASCII; lone surrogates, which a damaged page may contain, are escaped."""
        return json.dumps(self.to_dict(), indent=2)

    def to_text(self, everything: bool = False) -> str:
        """The report as text, for people.

        Args:
            everything: print all problems, not only the first `SHOWN` of each kind.
        """
        lines = [f"{self.path}: {self.format}", *self._table(), *self._entities()]
        for role, split in self.splits.items():
            lines += split.stats.lines(role)
        by_kind: dict[tuple[bool, str], list[str]] = {}
        for role, split in self.splits.items():
            for problem in split.problems:
                by_kind.setdefault((not problem.fatal, problem.kind), []).append(f"{role}: {problem}")
        for (harmless, kind), found in sorted(by_kind.items()):
            lines.append(f"{'note' if harmless else 'error'}: {kind}: {len(found)}")
            lines += _first(found, everything)
        if self.twins:
            across = sum(twin.role != twin.other_role for twin in self.twins)
            lines.append(f"note: duplicate pages: {len(self.twins)} pair(s), {across} across splits")
            across_first = sorted(self.twins, key=lambda twin: twin.role == twin.other_role)
            lines += _first([str(twin) for twin in across_first], everything)
        if self.parted:
            lines.append(f"note: documents with pages in several splits: {len(self.parted)}")
            several = [
                f"{group}: {', '.join(f'{role} {count}' for role, count in pages.items())}"
                for group, pages in self.parted.items()
            ]
            lines += _first(several, everything)
        lines += [f"note: {note}" for note in self.notes]
        if unusable := sum(split.unusable for split in self.splits.values()):
            lines.append(f"{unusable} page(s) cannot be used; data.bad_pages = skip leaves them out of a run")
        worth = sum(len(split.problems) for split in self.splits.values()) - self.fatal
        worth += len(self.twins) + len(self.parted) + len(self.notes)
        lines.append(f"{self.fatal} problem(s) that stop a run, {worth} worth a look")
        return "".join(
            character if character.isprintable() or character == "\n" else "?" for character in "\n".join(lines)
        )

    def _table(self) -> list[str]:
        rows = {role: split.counts() for role, split in self.splits.items()}
        columns = [key for key in next(iter(rows.values())) if any(row[key] is not None for row in rows.values())]
        lines = [f"  {'':8}" + "".join(f"{key:>12}" for key in columns)]
        return lines + [f"  {role:8}" + "".join(f"{row[key]:12}" for key in columns) for role, row in rows.items()]

    def _entities(self) -> list[str]:
        counts = [split.entities for split in self.splits.values()]
        types = sorted(set().union(*counts))
        width = max(map(len, types), default=0)
        if not types:
            return []
        lines = [f"  {'entities':{width}}" + "".join(f"{role:>12}" for role in self.splits)]
        return lines + [f"  {kind:{width}}" + "".join(f"{count[kind]:12}" for count in counts) for kind in types]


def _first(lines: list[str], everything: bool) -> list[str]:
    shown = lines if everything else lines[:SHOWN]
    more = [f"  ... and {len(lines) - len(shown)} more (--all shows them)"] if len(shown) < len(lines) else []
    return [*(f"  {line}" for line in shown), *more]


def check(settings: DataSettings, path: Path, role: str | None, count: CountWindows | None) -> Report:
    """Read a path and collect all problems. Of a store, all checksums are compared.

    Args:
        settings: how to read the path, such as format and invalid_boxes; the tags are compared with `labels`.
        role: the only split to read; None = all splits.
        count: returns the numbers of windows and tokens of documents; None = do not count them.

    Raises:
        DataError: the path does not exist, contains nothing in this format, or the labels file cannot be read.
    """
    if settings.format != "hub" and not path.exists():
        raise DataError(f"{path}: no such file or folder")
    stored = is_store(path)
    if stored:
        splits = {WHOLE: _read_store(settings, path)}
    else:
        splits = {role: _read(settings, path, role)} if role else _read_all(settings, path)
    types = _types(settings, path, splits)
    for split in splits.values():
        if types is not None:
            split.problems += _unknown_labels(split, types)
        if count is not None and not stored:
            split.windows, split.tokens = count(split.documents)
    everything = [(role, source) for role, split in splits.items() for source in split.sources]
    pairs = compare([page for split in splits.values() for page in sketches(split.documents)])
    twins = [Twin(*everything[one], *everything[other], identical) for one, other, identical in pairs]
    # Per split: train-1 and test-1 are not pages of the same document.
    found = [*(name_note(split.documents) for split in splits.values()), type_note(_entities(splits))]
    notes = list(dict.fromkeys(note for note in found if note is not None))
    return Report(path, "store" if stored else settings.format, splits, twins, _parted(splits), notes)


def _entities(splits: dict[str, Split]) -> Counter[str]:
    """Type -> number of entities in all splits."""
    return sum((split.entities for split in splits.values()), Counter())


def _parted(splits: dict[str, Split]) -> dict[str, dict[str, int]]:
    """Group -> role -> number of pages, for groups with pages in several splits."""
    pages: dict[str, dict[str, int]] = {}
    for role, split in splits.items():
        for document in split.documents:
            if document.group is not None:
                roles = pages.setdefault(document.group, {})
                roles[role] = roles.get(role, 0) + 1
    return {group: roles for group, roles in sorted(pages.items()) if len(roles) > 1}


def _read_all(settings: DataSettings, path: Path) -> dict[str, Split]:
    if path.is_file():
        whole = _read(settings, path, "train")
        if not whole.documents and not whole.fatal:
            raise DataError(f"{path}: holds no document")
        return {WHOLE: whole}
    splits: dict[str, Split] = {}
    failures: list[DataError] = []
    for role in ROLES:
        try:
            splits[role] = _read(settings, path, role)
        except DataError as error:
            failures.append(error)
            if not isinstance(error, NoSplitError):
                splits[role] = Split(problems=[Problem(str(path), "unreadable", str(error))])
    if not any(split.documents or split.fatal for split in splits.values()) or len(failures) == len(ROLES):
        raise failures[0] if failures else DataError(f"{path}: holds no document")
    first, *others = splits.values()
    if others and all((split.sources, split.documents) == (first.sources, first.documents) for split in others):
        return {WHOLE: first}  # a folder without splits gives all its pages in every role
    return splits


def _read_store(settings: DataSettings, path: Path) -> Split:
    """The documents of a store, whose problems were found when it was built.

    Raises:
        DataError: it is incomplete or damaged.
        SettingsError: its documents were read with other settings.
    """
    store = Store(path)
    store.require_read_as(settings, "the path")
    store.verify()
    documents, entries = StoredDocuments(store), store.manifest.shards
    return Split(
        documents,
        [document.name for document in documents],
        windows=sum(entry.windows for entry in entries),
        tokens=sum(entry.tokens for entry in entries),
    )


def _read(settings: DataSettings, path: Path, role: str) -> Split:
    """Read one split.

    Raises:
        DataError: nothing can be read. An error after the first page is a problem of the split instead.
    """
    documents: list[Document] = []
    split = Split(documents)
    checker = PageChecker(settings, split.stats)
    for page in _pages(settings, path, role, split):
        if isinstance(page, Problem) and not page.fatal:
            split.problems.append(page)  # a note about the split, not a page
            continue
        document, problems = checker.check(page)
        split.problems += problems
        if document is None:
            split.unusable += 1
        else:
            assert isinstance(page, Page), "a Problem is no document"
            documents.append(document)
            split.sources.append(page.source)
    split.problems += checker.finish(path)
    return split


def _pages(settings: DataSettings, path: Path, role: str, split: Split) -> Iterator[Page | Problem]:
    try:
        yield from read_pages(settings, path, role)
    except DataError as error:
        if not split.documents and not split.fatal:
            raise
        yield Problem(str(path), "unreadable", str(error))


def _types(settings: DataSettings, path: Path, splits: dict[str, Split]) -> Iterable[str] | None:
    """The known entity types: those of the labels file, else of the training documents; None if there are neither."""
    file = labels_file(settings, path)
    if file is not None:
        return read_labels(file, settings.scheme).types
    return splits["train"].entities if "train" in splits and splits["train"].entities else None


def _unknown_labels(split: Split, types: Iterable[str]) -> Iterator[Problem]:
    known = sorted(types)
    what = f"is not one of {', '.join(known)}"
    for source, document in zip(split.sources, split.documents, strict=True):
        for index, tag in enumerate(document.tags or ()):
            if tag != "O" and tag.partition("-")[2] not in known:
                yield Problem(source, "unknown label", f"label {tag} {what}", index, document.words[index])
