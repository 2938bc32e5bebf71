"""A store: documents and their windows as files that are mapped into memory, and not read.

STORE/store.json             what the store holds and was made from, and the checksums of its files; written last
STORE/shard-00000.safetensors
                             some documents in the order of their files, with their windows
STORE/index.safetensors      numbers of all documents and windows, in the order of the documents' names

`corpus/build.py` writes a store, `corpus/store.py` has its windows. All ranks and machines that see the folder share
it. Nothing in it changes once it is written.
"""

import json
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np

from layoutner.documents.columns import Documents
from layoutner.documents.duplicates import Sketch
from layoutner.errors import DataError, LayoutnerError, SettingsError, first_line
from layoutner.files.arrays import Array, MappedArrays
from layoutner.files.artefact import Artefact, FileEntry, sha256
from layoutner.files.image import PageImage
from layoutner.pages.document import Document
from layoutner.pages.encoded import document_from_bytes, image_from_bytes
from layoutner.settings.data import DataSettings

MANIFEST_FILE = "store.json"
BUILD_FILE = "build.json"  # in place of MANIFEST_FILE while the store is built
INDEX_FILE = "index.safetensors"
COUNTED = ("documents", "words", "windows", "tokens")
RELEASED_AFTER = 8  # looks at a shard until memory is released; up to 0.4 MB each, as the system maps more at once
OPEN_SHARDS = 512  # each takes a file descriptor and some kilobytes; to open one again takes 0.2 ms

# Settings that say how documents are read, which a run with the store must share.
READ_AS = ("ignore_types", "group_by", "box_unit", "box_format", "invalid_boxes")


class ShardEntry(FileEntry):
    """What is known of a shard."""

    made_from: str  # digest of its documents and of what its windows depend on
    documents: int
    windows: int
    words: int
    tokens: int
    label_counts: tuple[int, ...]  # labelled tokens by label id


class StoreManifest(Artefact):
    """The file store.json."""

    refused_as: ClassVar[type[LayoutnerError]] = DataError

    made_from: dict[str, Any]  # where the documents were read, and all else that the windows depend on
    types: tuple[str, ...]  # entity types in the order of a label set for training on the store
    numbered_types: tuple[str, ...]  # entity types in the order in which the label ids of the shards number them
    notes: tuple[str, ...]  # log lines: repairs, skipped pages and hints
    ignored: dict[str, int]  # type of data.ignore_types -> number of words with it
    shards: tuple[ShardEntry, ...]
    index: FileEntry

    def __str__(self) -> str:
        counts = {what: sum(getattr(entry, what) for entry in self.shards) for what in COUNTED}
        return ", ".join(f"{count} {what}" for what, count in counts.items())


def is_store(path: Path) -> bool:
    """Whether a path is a store, complete or not."""
    return (path / MANIFEST_FILE).is_file() or (path / BUILD_FILE).is_file()


def shard_file(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def differing(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """The values that differ, one line each."""
    there, here = (json.loads(json.dumps(values)) for values in (there, here))
    return [f"{key} = {there.get(key)} there, {here[key]} here" for key in here if there.get(key) != here[key]]


def read_as(settings: DataSettings) -> dict[str, Any]:
    """The settings that say how documents are read, by name."""
    return {f"data.{key}": getattr(settings, key) for key in READ_AS}


class Store:
    """A complete store. Shards are opened when something in them is asked for."""

    def __init__(self, path: Path) -> None:
        """Open a store. Compares the index with its checksum, and the lengths of the shards; `verify` reads all files.

        Raises:
            DataError: it is incomplete or damaged, or a newer layoutner has written it.
        """
        self.path = path
        if not (path / MANIFEST_FILE).is_file():
            raise DataError(f"{path}: a store whose build was not finished: the same `layoutner data build` goes on")
        try:
            self.manifest = StoreManifest.read(path / MANIFEST_FILE)
            for name, entry in self.files().items():
                if (size := (path / name).stat().st_size) != entry.bytes:
                    raise ValueError(f"{name} has {size} bytes instead of {entry.bytes}")
            if sha256(path / INDEX_FILE) != self.manifest.index.sha256:
                raise ValueError(f"{INDEX_FILE} has changed since it was written")
            self.index = MappedArrays(path / INDEX_FILE)
        except (OSError, ValueError, KeyError) as error:
            raise self.damaged(first_line(error)) from None
        entries = self.manifest.shards
        # The first document and window of each shard, in the order of the files, and one after the last.
        self.document_starts, self.window_starts = (
            np.cumsum([0, *(getattr(entry, what) for entry in entries)]) for what in ("documents", "windows")
        )
        self._shards: OrderedDict[int, MappedArrays] = OrderedDict()
        self._touched: set[int] = set()  # shards that were looked at since the last `release`
        self._looks = 0
        self._opening = Lock()  # windows are read in several threads

    def files(self) -> dict[str, FileEntry]:
        """Name -> entry of every file but the manifest."""
        shards = {shard_file(number): entry for number, entry in enumerate(self.manifest.shards)}
        return {**shards, INDEX_FILE: self.manifest.index}

    def damaged(self, what: str) -> DataError:
        """The error to raise for a damaged store."""
        return DataError(f"{self.path}: a damaged store: {what}; remove it, and `layoutner data build` makes it again")

    def verify(self) -> None:
        """Compare all files with their checksums. Reads all of them.

        Raises:
            DataError: a file has changed.
        """
        for name, entry in self.files().items():
            try:
                changed = sha256(self.path / name) != entry.sha256
            except OSError as error:
                raise self.damaged(first_line(error)) from None
            if changed:
                raise self.damaged(f"{name} has changed since it was written")

    def require_read_as(self, settings: DataSettings, said: str) -> None:
        """Refuse a store whose documents were read with other settings.

        Args:
            said: name of the path in messages, such as "data.train".

        Raises:
            SettingsError: settings differ; the message names them.
        """
        if differs := differing(self.manifest.made_from, read_as(settings)):
            raise SettingsError(
                f"{said} = {self.path}: the store was built with other settings: {'; '.join(differs)}: set them as "
                "they are there, or build another store"
            )

    def shard(self, number: int) -> MappedArrays:
        """The arrays of a shard. What is looked at in them is let go of after a while; see `release`.

        Raises:
            DataError: it is damaged.
        """
        with self._opening:
            if number not in self._shards:
                try:
                    self._shards[number] = MappedArrays(self.path / shard_file(number))
                except (OSError, ValueError, KeyError) as error:
                    raise self.damaged(f"{shard_file(number)}: {first_line(error)}") from None
                if len(self._shards) > OPEN_SHARDS:
                    self._shards.popitem(last=False)
            self._shards.move_to_end(number)
            self._looks += 1
            if self._looks % RELEASED_AFTER == 0:
                self.release()
            self._touched.add(number)
            return self._shards[number]

    def release(self) -> None:
        """Let go of the memory of what was looked at; see `MappedArrays.release`."""
        self.index.release()
        for number in self._touched & self._shards.keys():
            self._shards[number].release()
        self._touched.clear()


def place_in(starts: Array, number: int) -> tuple[int, int]:
    """(shard, place in it) of a document or window, by the starts of the shards."""
    shard = int(np.searchsorted(starts, number, side="right")) - 1
    return shard, number - int(starts[shard])


class StoredDocuments(Documents):
    """Documents of a store in the order of their names, or some of them."""

    def __init__(self, store: Store, selected: Array | None = None) -> None:
        """All documents of the store, or those with these numbers in the order of all names."""
        self.store = store
        self.selected = selected  # None = all of them
        self._places: Array = self._column("document_places")
        self.word_counts: Array = self._column("word_counts")
        self.page_digests: Array = self._column("page_digests")
        self.content_digests: Array = self._column("content_digests")
        self.group_hashes: Array = self._column("group_hashes")
        self.types = frozenset(store.manifest.numbered_types)

    def _column(self, name: str) -> Array:
        column = self.store.index[name]
        return column if self.selected is None else column[self.selected]

    @property
    def unit_roots(self) -> Array:
        """See `Documents`; only all documents of a store are split."""
        assert self.selected is None, "the first document of a unit may not be among the selected ones"
        return self.store.index["unit_roots"]

    def select(self, indices: Array) -> "StoredDocuments":
        return StoredDocuments(self.store, indices if self.selected is None else self.selected[indices])

    def sketches(self) -> Sequence[Sketch]:
        return StoredSketches(self.store.shard, self.store.document_starts, self._places)

    def without_image(self) -> list[str]:
        return [self[int(index)].name for index in np.flatnonzero(~self._column("has_image"))]

    def in_file_order(self) -> Iterator[Document]:
        """The documents in the order of their files."""
        for place in np.sort(self._places).tolist():
            yield self._read(place)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        return self._read(int(self._places[range(len(self))[index]]))

    def _read(self, place: int) -> Document:
        number, own = place_in(self.store.document_starts, place)
        try:
            return document_from_bytes(zlib.decompress(piece(self.store.shard(number), "documents", own).data))
        except (zlib.error, ValueError, KeyError, TypeError) as error:
            raise self.store.damaged(f"document {own} of {shard_file(number)}: {first_line(error)}") from None

    def image(self, index: int) -> PageImage | None:
        """The page image of a document, without reading the rest of it."""
        number, own = place_in(self.store.document_starts, int(self._places[index]))
        return image_from_bytes(bytes(piece(self.store.shard(number), "images", own)))


class StoredSketches(Sequence[Sketch]):
    """The sketches of documents in shards. Each is read when it is asked for."""

    def __init__(self, shard: Callable[[int], Mapping[str, Array]], starts: Array, places: Array) -> None:
        """Sketches of some documents.

        Args:
            shard: number of a shard -> its arrays.
            starts: number of the first document of each shard.
            places: numbers of the documents.
        """
        self._shard, self._starts, self._places = shard, starts, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        number, own = place_in(self._starts, int(self._places[range(len(self))[index]]))
        shard = self._shard(number)
        digest = int(shard["page_digests"][own]) if shard["word_counts"][own] else None
        image = image_from_bytes(bytes(piece(shard, "images", own)))
        return Sketch(digest, image, piece(shard, "grams", own), piece(shard, "numbers", own))


def piece(arrays: Mapping[str, Array], name: str, index: int) -> Array:
    """One of the pieces that make up a flat array, by the array of their starts."""
    starts = arrays[f"{name}_starts"]
    return arrays[name][starts[index] : starts[index + 1]]
