"""Build a store: documents are read one by one, and several processes cut them into windows, a shard at a time.

What a killed build left is used again: a shard is kept if it was made from the same documents and settings.
"""

import hashlib
import json
import logging
import multiprocessing
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from layoutner.corpus.shards import make_index, shard_arrays
from layoutner.corpus.splitter import WindowSplitter
from layoutner.corpus.store import cut_as
from layoutner.documents.roles import label_set, labels_file, require_ignored, stream, type_note
from layoutner.documents.splits import names_note
from layoutner.documents.store import (
    BUILD_FILE,
    INDEX_FILE,
    MANIFEST_FILE,
    ShardEntry,
    StoreManifest,
    differing,
    is_store,
    read_as,
    shard_file,
)
from layoutner.errors import DataError, LayoutnerError, raise_gathered
from layoutner.files.arrays import MappedArrays, allow_open_files, write_arrays
from layoutner.files.artefact import Artefact, FileEntry
from layoutner.files.atomic import remove_leftovers
from layoutner.files.lock import Lock
from layoutner.pages.document import Document
from layoutner.pages.encoded import document_from_bytes, document_to_bytes
from layoutner.pages.labels import LabelSet, to_spans
from layoutner.pages.page import ReadStats
from layoutner.progress import Task, task
from layoutner.settings.data import DataSettings

logger = logging.getLogger(__name__)

SHARD_DOCUMENTS, SHARD_WORDS = 4096, 500_000  # a shard ends at either
WAITING = 2  # shards per process that are read and wait to be cut


class Build(Artefact):
    """The file build.json of an unfinished store."""

    refused_as: ClassVar[type[LayoutnerError]] = DataError

    made_from: dict[str, Any]


class ShardRecord(Artefact):
    """A file beside each shard of an unfinished store. A shard without it is not complete."""

    entry: ShardEntry


@dataclass
class _Batch:
    """Documents of one shard, as bytes, while they are read."""

    contents: list[bytes] = field(default_factory=list)
    words: int = 0

    def is_full(self) -> bool:
        return len(self.contents) >= SHARD_DOCUMENTS or self.words >= SHARD_WORDS


def build(
    settings: DataSettings, splitter: WindowSplitter, source: Path, role: str, out: Path, processes: int
) -> StoreManifest:
    """Build a store of the labelled documents of a path, or go on with what a killed build left of it.

    Args:
        settings: how documents are read and cut.
        role: "train", "eval" or "test": the split to read if the path contains several.
        processes: that cut windows; 1 = this one.

    Raises:
        SettingsError: max_length leaves no room for words, or data.ignore_types names a type that no page has.
        DataError: documents cannot be used; `out` cannot be written, or holds something else.
    """
    made_from = {
        "path": str(source.absolute() if source.exists() else source),
        "split": role,
        **read_as(settings),
        **cut_as(splitter, settings.scheme, settings.label_all_subwords),
    }
    try:
        with _alone(out, Build(made_from=made_from)):
            return _Builder(settings, splitter, source, role, out, made_from).run(processes)
    except OSError as error:
        raise DataError(f"--out {out}: cannot be written: {error}; free disk space, then start again") from None


@contextmanager
def _alone(out: Path, planned: Build) -> Iterator[None]:
    """Hold the folder, which is new, or has a store or a part of one that was made in the same way."""
    others = out.exists() and (not out.is_dir() or any(path.name != ".lock" for path in out.iterdir()))
    if others and not is_store(out):
        raise DataError(f"--out {out}: holds other files; give a path that does not exist")
    out.mkdir(parents=True, exist_ok=True)
    try:
        lock = Lock(out / ".lock")
    except TimeoutError:
        raise DataError(f"--out {out}: another process is building it: wait for its end") from None
    with lock:
        there: Build | StoreManifest | None = None
        try:
            if (out / MANIFEST_FILE).exists():
                there = StoreManifest.read(out / MANIFEST_FILE)
            elif (out / BUILD_FILE).exists():
                there = Build.read(out / BUILD_FILE)
        except ValueError as error:
            raise DataError(f"--out {out}: a damaged store: {error}; remove it") from None
        if there is None:
            planned.write(out / BUILD_FILE)
        elif differs := differing(there.made_from, planned.made_from):
            raise DataError(
                f"--out {out}: a store made in another way: {'; '.join(differs)}: remove it, or give another"
            )
        yield


class _Builder:
    def __init__(
        self,
        settings: DataSettings,
        splitter: WindowSplitter,
        source: Path,
        role: str,
        out: Path,
        made_from: dict[str, Any],
    ) -> None:
        self._settings, self._splitter, self._made_from = settings, splitter, made_from
        self._source, self._role, self._out = source, role, out
        self._complete = StoreManifest.read(out / MANIFEST_FILE) if (out / MANIFEST_FILE).exists() else None
        self._stats = ReadStats()
        self._names: list[str] = []
        self._grouped = False
        self._types: Counter[str] = Counter()  # type -> number of entities, in order of first occurrence
        self._kept = 0

    def run(self, processes: int) -> StoreManifest:
        remove_leftovers(self._out, "*")
        next(self._splitter.cut([], None), None)  # refuses settings that leave no room for words
        with task("cutting documents into windows", unit="documents") as progress:
            if processes == 1:
                entries = []
                for number, batch in enumerate(self._batches()):
                    entries.append(self._cut_here(number, batch))
                    progress.advance(entries[-1].documents)
            else:
                entries = self._cut_in_processes(processes, progress)
        if not sum(entry.words for entry in entries):
            raise DataError(f"{self._source}: {len(self._names)} documents and not one word")
        require_ignored(self._settings, self._stats.ignored)
        if self._kept:
            logger.info("%d of %d shards were complete", self._kept, len(entries))
        return self._finish(entries)

    def _batches(self) -> Iterator[_Batch]:
        """Read the documents. After a page that cannot be used, the rest is read, to list all problems."""
        batch, problems = _Batch(), []
        for found in stream(self._settings, self._source, self._role, self._stats, str(self._source), "require"):
            if not isinstance(found, Document):
                problems += [str(problem) for problem in found if problem.fatal]
            elif not problems:
                self._note(found)
                batch.contents.append(document_to_bytes(found))
                batch.words += len(found.words)
                if batch.is_full():
                    yield batch
                    batch = _Batch()
        advice = "data.bad_pages = skip leaves such pages out"
        raise_gathered(DataError, f"{len(problems)} problem(s) in {self._source} ({advice})", problems)
        if batch.contents:
            yield batch

    def _note(self, document: Document) -> None:
        self._names.append(document.name)
        self._grouped |= document.group is not None
        self._types.update(span.type for span in to_spans(document.tags or ()))

    def _task(self, number: int, batch: _Batch) -> "_Task":
        types = tuple(self._types)
        digest = hashlib.sha256(json.dumps([self._made_from, types]).encode())
        for content in batch.contents:
            digest.update(hashlib.sha256(content).digest())
        return _Task(self._out, number, batch.contents, types, self._settings, digest.hexdigest())

    def _known(self, task: "_Task") -> ShardEntry | None:
        """The entry of a shard that was made from the same documents before and is as it was written; else None."""
        entries = [] if self._complete is None else list(self._complete.shards[task.number : task.number + 1])
        if task.record.exists():
            entries.append(ShardRecord.read(task.record).entry)
        for entry in entries:
            same = entry.made_from == task.made_from and task.file.is_file()
            if same and FileEntry.of(task.file).sha256 == entry.sha256:
                self._kept += 1
                return entry
        if self._complete is not None:
            raise DataError(
                f"--out {self._out}: a complete store of other documents, or a damaged one ({task.file.name}): remove "
                "it, or give another path"
            )
        return None

    def _cut_here(self, number: int, batch: _Batch) -> ShardEntry:
        task = self._task(number, batch)
        return self._known(task) or _cut(task, self._splitter)

    def _cut_in_processes(self, processes: int, progress: Task) -> list[ShardEntry]:
        # A new interpreter for each: a copy of this one could hold a lock of one of its threads forever.
        context = multiprocessing.get_context("spawn")
        entries: list[ShardEntry] = []
        running: deque[Future[ShardEntry]] = deque()
        try:
            with ProcessPoolExecutor(processes, context, _start, (self._splitter,)) as pool:
                for number, batch in enumerate(self._batches()):
                    task = self._task(number, batch)
                    known = self._known(task)
                    running.append(pool.submit(_cut_in_worker, task) if known is None else _done(known))
                    while len(running) > WAITING * processes:
                        entries.append(running.popleft().result())
                        progress.advance(entries[-1].documents)
                for future in running:
                    entries.append(future.result())
                    progress.advance(entries[-1].documents)
        except BrokenProcessPool:
            raise DataError(
                f"--out {self._out}: a process that cut windows was killed, perhaps for its memory: start again, which "
                "goes on with what is complete, or with fewer --processes"
            ) from None
        return entries

    def _finish(self, entries: Sequence[ShardEntry]) -> StoreManifest:
        """Write the index and the manifest, and remove what is only needed until then."""
        manifest = self._complete
        if manifest is None:
            manifest = self._manifest(entries)
            manifest.write(self._out / MANIFEST_FILE)
        elif len(entries) < len(manifest.shards):
            raise DataError(f"--out {self._out}: a complete store of more documents: remove it, or give another path")
        for path in (self._out / BUILD_FILE, *self._out.glob("shard-*.json")):
            path.unlink(missing_ok=True)
        return manifest

    def _manifest(self, entries: Sequence[ShardEntry]) -> StoreManifest:
        allow_open_files(len(entries))
        shards = [MappedArrays(self._out / shard_file(number)) for number in range(len(entries))]
        write_arrays(self._out / INDEX_FILE, make_index(shards, self._names))
        settings = self._settings
        file = labels_file(settings, self._source)
        types = tuple(sorted(self._types)) if file is None else label_set(settings, file, []).types
        if not types:
            raise DataError(f"{self._source}: no document holds an entity: every word is O")
        found = (None if self._grouped else names_note(self._names), type_note(self._types))
        hints = [f"note: {note}" for note in found if note is not None]
        return StoreManifest(
            made_from=self._made_from,
            types=types,
            numbered_types=tuple(self._types),
            notes=(*(line.removeprefix("x: ") for line in self._stats.lines("x")), *hints),
            ignored=dict(self._stats.ignored),
            shards=tuple(entries),
            index=FileEntry.of(self._out / INDEX_FILE),
        )


@dataclass(frozen=True)
class _Task:
    """A shard to cut."""

    out: Path
    number: int
    contents: list[bytes]  # the documents
    types: tuple[str, ...]  # number their label ids
    settings: DataSettings
    made_from: str

    @property
    def file(self) -> Path:
        return self.out / shard_file(self.number)

    @property
    def record(self) -> Path:
        return self.file.with_suffix(".json")


_splitter: WindowSplitter  # of a worker process


def _start(splitter: WindowSplitter) -> None:
    global _splitter
    _splitter = splitter


def _cut_in_worker(task: _Task) -> ShardEntry:
    return _cut(task, _splitter)


def _done(entry: ShardEntry) -> "Future[ShardEntry]":
    future: Future[ShardEntry] = Future()
    future.set_result(entry)
    return future


def _cut(task: _Task, splitter: WindowSplitter) -> ShardEntry:
    """Cut the documents of a shard and write it."""
    documents = [document_from_bytes(content) for content in task.contents]
    labels = LabelSet(task.settings.scheme, task.types)
    windows = splitter.split(documents, labels, task.settings.label_all_subwords)
    write_arrays(task.file, shard_arrays(task.contents, documents, windows, labels))
    entry = ShardEntry(
        **FileEntry.of(task.file).model_dump(),
        made_from=task.made_from,
        documents=len(documents),
        windows=len(windows),
        words=sum(len(document.words) for document in documents),
        tokens=windows.tokens,
        label_counts=tuple(windows.label_counts(len(labels.tags))),
    )
    ShardRecord(entry=entry).write(task.record)
    return entry
