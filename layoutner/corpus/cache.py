"""Windows kept between runs: documents that were cut once are read back, and never for documents of another cut.

FOLDER/windows-KEY.safetensors   the windows of one role's documents, as flat arrays with a checksum
FOLDER/windows-KEY.lock          empty; held by the process that cuts them

KEY is a digest of everything that the arrays follow from, so whatever changes makes another file. An entry takes about
17 bytes a token. None is ever removed: old ones are the user's to delete, at any time; what is missing is cut again.
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

FORMAT = 1  # of an entry; another number makes other keys
# Of a document, what no kept array follows from: windows that are read get the image of the document that is there.
NOT_KEPT = ("name", "page_size", "image", "breaks", "group")
# The code that cuts. Its text is part of the key, as a checkout changes without a new version.
CUTTERS = ("corpus/windows.py", "pages/document.py", "pages/labels.py")
ARRAYS = ("documents", "lengths", "owned_counts", "input_ids", "labels", "box_of", "owned_words")
CHECKSUM = "sha256"

SAID_AFTER_S = 10.0
# From here on windows are cut without a lock, as one who holds it this long may be suspended.
LONGEST_WAIT_S = 600.0


class WindowCache:
    """Cuts documents into windows, or reads them where they have been cut before.

    On one machine one process cuts what the others wait for; so it is on many that share the folder, as far as
    their file system tells them of each other's files in time. What goes wrong with
    the folder is a warning, and costs no more than the cutting.
    """

    def __init__(self, folder: Path | None) -> None:
        """Look at the folder, which is made when there is something to keep. None = cut always.

        Raises:
            SettingsError: it is a file.
        """
        if folder is not None and os.path.exists(folder) and not os.path.isdir(folder):
            raise SettingsError(f"data.cache = {folder}: is no folder; give one that is, or is still to be made")
        self._folder = folder
        self._counts = {"read from": 0, "cut and kept in": 0}
        self._can_keep = True  # until it turns out otherwise, which is said once

    @property
    def notes(self) -> tuple[str, ...]:
        """How many windows were read and how many were cut and kept so far, for the run's log."""
        return tuple(f"cache: {count} windows {done} {self._folder}" for done, count in self._counts.items() if count)

    def windows(
        self,
        splitter: WindowSplitter,
        documents: Sequence[Document],
        labels: LabelSet | None,
        all_subwords: bool = False,
    ) -> list[Window]:
        """What `splitter.split` gives for the same arguments.

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
            # Another process may have cut them while this one waited.
            if _stamp(entry) != found and (kept := self._read(entry, key, splitter, documents)) is not None:
                return kept
            windows = splitter.split(documents, labels, all_subwords)
            try:
                _write(entry, _pack(windows, splitter, documents), key, locked)
            except OSError as error:
                _warn("%s: cannot be written: %s; this run goes on without", entry, error)
                self._can_keep = False
            else:
                self._counts["cut and kept in"] += len(windows)
            return windows

    def _read(
        self, entry: Path, key: str, splitter: WindowSplitter, documents: Sequence[Document]
    ) -> list[Window] | None:
        """The windows of an entry; None where there is none, or none that can be used."""
        try:
            windows = _unpack(_verified(entry.read_bytes(), key), splitter, documents)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            _warn("%s: cannot be read: %s; its windows are cut anew", entry, error)
            return None
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            _warn("%s: is damaged: %s; its windows are cut anew", entry, first_line(error))
            return None
        self._counts["read from"] += len(windows)
        return windows


def cache_key(
    splitter: WindowSplitter, documents: Sequence[Document], labels: LabelSet | None, all_subwords: bool = False
) -> str:
    """A digest of all that `splitter.windows` reads, of the code that does it and of the format of an entry."""
    digest = hashlib.sha256()

    def add(value: object) -> None:
        digest.update(json.dumps(value, default=str).encode() + b"\n")

    tokenizer = splitter.tokenizer
    backend = tokenizer.backend_tokenizer
    # As they are when it cuts, so that the first role's key is no other than the later ones'.
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
    """Tells whether an entry was written anew."""
    try:
        found = entry.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Hold the lock; a process that ends, however it ends, gives it back. False where it cannot be had."""
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
            _warn("%s: another process holds it, to cut the same windows; waiting for it", path)
            return Lock(path, LONGEST_WAIT_S - SAID_AFTER_S)
    except OSError:  # it was held too long, or nothing can be written there either, which is said
        return None


def _write(entry: Path, tensors: dict[str, torch.Tensor], key: str, locked: bool) -> None:
    """Write an entry.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    if locked:  # of processes that were killed; a young one may be written by another machine, if its locks are its own
        remove_leftovers(entry.parent, f"{entry.name}.*", LONGEST_WAIT_S)
    with atomic_file(entry, shared=True) as file:
        file.write(save({**tensors, CHECKSUM: _checksum(tensors, key)}))


def _verified(content: bytes, key: str) -> dict[str, torch.Tensor]:
    """The arrays of an entry.

    Raises:
        SafetensorError, KeyError: it is no entry, or not whole.
        ValueError: a byte of it has changed, or it is that of another key.
    """
    tensors: dict[str, torch.Tensor] = load(content)
    kept = tensors.pop(CHECKSUM)
    if not torch.equal(kept, _checksum(tensors, key)):
        raise ValueError("its checksum does not fit")
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
    """Windows as flat int32 arrays, one after the other."""
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
    """Every box that a token of the document may have. They are in the key, so an entry holds their numbers alone."""
    of_words = document.segment_boxes() if splitter.box_level == "segment" else document.boxes
    return [*of_words, *splitter.special_boxes]


def _warn(text: str, *values: object) -> None:
    logger.warning("warning: data.cache: " + text, *values)
