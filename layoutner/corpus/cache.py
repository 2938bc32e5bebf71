"""Cache of windows on disk (data.cache), shared by ranks and by later runs.

FOLDER/windows-KEY.safetensors   the windows of one role's documents, as flat arrays with a checksum
FOLDER/windows-KEY.lock          empty; locked by the process that computes the entry

KEY is a hash of everything that the arrays depend on, so any change leads to another file. An entry takes about 17
bytes per token. Entries are never removed automatically. The user may delete them at any time; a missing entry is
computed again.
"""

import hashlib
import json
import logging
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib import resources
from importlib.metadata import version
from itertools import accumulate, chain, groupby, pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from layoutner import __version__
from layoutner.corpus.windows import Window, WindowSplitter, structural_ids
from layoutner.errors import SettingsError, first_line
from layoutner.files.atomic import atomic_file, remove_leftovers
from layoutner.files.lock import Lock
from layoutner.pages.document import Box, Document
from layoutner.pages.labels import LabelSet

logger = logging.getLogger(__name__)

FORMAT = 1  # version of the entry format; part of the key
# Fields of a Document that no cached array depends on. Windows get their image from the document at hand.
NOT_KEPT = ("name", "page_size", "image", "breaks", "group")
# The code that computes windows. Its text is part of the key, because a checkout changes without a new version number.
CUTTERS = ("corpus/windows.py", "pages/document.py", "pages/labels.py")
ARRAYS = ("documents", "lengths", "owned_counts", "input_ids", "labels", "box_of", "owned_words")
CHECKSUM = "sha256"

SAID_AFTER_S = 10.0
# After this time, compute the windows without the lock: a process that holds it this long may be suspended.
LONGEST_WAIT_S = 600.0


class WindowCache:
    """Splits documents into windows, or reads the windows from the cache.

    One process computes an entry while the others wait for it. This also works across machines that share the folder,
    if their file system shows new files without delay. If the folder cannot be read or written, a warning is logged
    and the windows are computed.
    """

    def __init__(self, folder: Path | None) -> None:
        """Use this cache folder, which is created at the first write. None = no cache.

        Raises:
            SettingsError: the path is a file.
        """
        if folder is not None and os.path.exists(folder) and not os.path.isdir(folder):
            raise SettingsError(f"data.cache = {folder}: not a folder; give a folder, or a path that does not exist")
        self._folder = folder
        self._counts = {"read from": 0, "cut and kept in": 0}
        self._can_keep = True  # False after a write failed, so that the warning is logged once

    @property
    def notes(self) -> tuple[str, ...]:
        """Log lines: number of windows read from the cache and written to it so far."""
        return tuple(f"cache: {count} windows {done} {self._folder}" for done, count in self._counts.items() if count)

    def windows(
        self,
        splitter: WindowSplitter,
        documents: Sequence[Document],
        labels: LabelSet | None,
        all_subwords: bool = False,
    ) -> list[Window]:
        """The result of `splitter.split` for the same arguments.

        Raises:
            SettingsError, DataError: as `splitter.split`.
        """
        if self._folder is None or not documents:
            return splitter.split(documents, labels, all_subwords)
        key = cache_key(splitter, documents, labels, all_subwords)
        entry = self._folder / f"windows-{key}.safetensors"
        found = _stamp(entry)
        if (kept := self._read(entry, key, splitter, documents)) is not None:
            return kept
        if not self._can_keep:
            return splitter.split(documents, labels, all_subwords)
        with _alone(entry.with_suffix(".lock")) as locked:
            # Another process may have written the entry while this one waited.
            if _stamp(entry) != found and (kept := self._read(entry, key, splitter, documents)) is not None:
                return kept
            windows = splitter.split(documents, labels, all_subwords)
            try:
                _write(entry, _pack(windows, splitter, documents), key, locked)
            except OSError as error:
                _warn("%s: cannot be written: %s; this run writes no more windows to the cache", entry, error)
                self._can_keep = False
            else:
                self._counts["cut and kept in"] += len(windows)
            return windows

    def _read(
        self, entry: Path, key: str, splitter: WindowSplitter, documents: Sequence[Document]
    ) -> list[Window] | None:
        """The windows of an entry; None if the entry does not exist or cannot be used."""
        try:
            windows = _unpack(_verified(entry.read_bytes(), key), splitter, documents)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            _warn("%s: cannot be read: %s; its windows are computed again", entry, error)
            return None
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            _warn("%s: is damaged: %s; its windows are computed again", entry, first_line(error))
            return None
        self._counts["read from"] += len(windows)
        return windows


def cache_key(
    splitter: WindowSplitter, documents: Sequence[Document], labels: LabelSet | None, all_subwords: bool = False
) -> str:
    """A hash of all inputs of `splitter.split`, of its code and of the entry format."""
    digest = hashlib.sha256()

    def add(value: object) -> None:
        digest.update(json.dumps(value, default=str).encode() + b"\n")

    tokenizer = splitter.tokenizer
    backend = tokenizer.backend_tokenizer
    # `split` sets these too. Set them here so that the key does not depend on whether `split` has run before.
    backend.no_truncation()
    backend.no_padding()
    add([FORMAT, __version__, version("tokenizers")])
    add([(resources.files("layoutner") / name).read_text(encoding="utf-8") for name in CUTTERS])
    add(backend.to_str())
    add([tokenizer.unk_token_id, tokenizer.pad_token_id, sorted(structural_ids(tokenizer))])
    add({field.name: getattr(splitter, field.name) for field in fields(splitter) if field.name != "tokenizer"})
    add([None if labels is None else [labels.scheme, labels.types], all_subwords])
    without = {*NOT_KEPT, *(() if splitter.box_level == "segment" else ("segments",))}
    kept = [field.name for field in fields(Document) if field.name not in without]
    for document in documents:
        add([getattr(document, name) for name in kept])
    return digest.hexdigest()[:32]


def _stamp(entry: Path) -> tuple[int, int] | None:
    """Inode and modification time of an entry, to see whether it was rewritten; None if it does not exist."""
    try:
        found = entry.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Hold the lock file; yields False if it could not be acquired. The system releases it when the process ends."""
    lock = _lock(path)
    try:
        yield lock is not None and lock.keeps_out
    finally:
        if lock is not None:
            lock.release()


def _lock(path: Path) -> Lock | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return Lock(path, SAID_AFTER_S)
        except TimeoutError:
            _warn("%s: locked by another process, which computes the same windows; waiting for it", path)
            return Lock(path, LONGEST_WAIT_S - SAID_AFTER_S)
    except OSError:  # it was held too long, or nothing can be written there either, which is said
        return None


def _write(entry: Path, tensors: dict[str, torch.Tensor], key: str, locked: bool) -> None:
    """Write an entry.

    Raises:
        OSError: it cannot be written; the temporary file is removed.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    if locked:  # remove files of killed processes, but not recent ones: locks may not be shared between machines
        remove_leftovers(entry.parent, f"{entry.name}.*", LONGEST_WAIT_S)
    with atomic_file(entry, shared=True) as file:
        file.write(save({**tensors, CHECKSUM: _checksum(tensors, key)}))


def _verified(content: bytes, key: str) -> dict[str, torch.Tensor]:
    """The arrays of an entry, after its checksum was verified.

    Raises:
        SafetensorError, KeyError: not an entry, or incomplete.
        ValueError: its contents have changed, or it belongs to another key.
    """
    tensors: dict[str, torch.Tensor] = load(content)
    kept = tensors.pop(CHECKSUM)
    if not torch.equal(kept, _checksum(tensors, key)):
        raise ValueError("its checksum does not match")
    return tensors


def _checksum(tensors: dict[str, torch.Tensor], key: str) -> torch.Tensor:
    digest = hashlib.sha256(key.encode())
    for name in ARRAYS:
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def _pack(
    windows: Sequence[Window], splitter: WindowSplitter, documents: Sequence[Document]
) -> dict[str, torch.Tensor]:
    """Concatenate the windows into flat int32 arrays."""
    box_of: list[int] = []
    for index, group in groupby(windows, key=lambda window: window.document):
        numbers = {box: number for number, box in enumerate(_boxes(splitter, documents[index]))}
        box_of.extend(numbers[box] for window in group for box in window.boxes)
    arrays: dict[str, Iterable[int]] = {
        "documents": [window.document for window in windows],
        "lengths": [window.length for window in windows],
        "owned_counts": [len(window.owned_words) for window in windows],
        "input_ids": chain.from_iterable(window.input_ids for window in windows),
        "labels": chain.from_iterable(window.labels for window in windows),
        "box_of": box_of,
        "owned_words": chain.from_iterable(chain.from_iterable(window.owned_words) for window in windows),
    }
    return {name: _tensor(values) for name, values in arrays.items()}


def _tensor(values: Iterable[int]) -> torch.Tensor:
    numbers = array("i", values)
    return torch.frombuffer(numbers, dtype=torch.int32) if numbers else torch.zeros(0, dtype=torch.int32)


def _unpack(tensors: dict[str, torch.Tensor], splitter: WindowSplitter, documents: Sequence[Document]) -> list[Window]:
    lists = {name: tensors[name].tolist() for name in ARRAYS}
    owned_words: list[tuple[int, int]] = list(zip(*[iter(lists["owned_words"])] * 2, strict=True))
    tokens = pairwise(accumulate(lists["lengths"], initial=0))
    owned_counts = pairwise(accumulate(lists["owned_counts"], initial=0))
    windows: list[Window] = []
    boxes: list[Box] = []
    for index, (start, end), (first, after) in zip(lists["documents"], tokens, owned_counts, strict=True):
        if not windows or windows[-1].document != index:
            boxes = _boxes(splitter, documents[index])
        windows.append(
            Window(
                index,
                lists["input_ids"][start:end],
                [boxes[number] for number in lists["box_of"][start:end]],
                lists["labels"][start:end],
                owned_words[first:after],
                documents[index].image,
            )
        )
    return windows


def _boxes(splitter: WindowSplitter, document: Document) -> list[Box]:
    """All boxes that a token of the document may have. Entries store indices into this list.

    The boxes themselves are part of the key.
    """
    of_words = document.segment_boxes() if splitter.box_level == "segment" else document.boxes
    return [*of_words, *splitter.special_boxes]


def _warn(text: str, *values: object) -> None:
    logger.warning("warning: data.cache: " + text, *values)
