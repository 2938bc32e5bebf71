"""The windows of a store: what they depend on, and how they are read."""

import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from importlib.metadata import version
from typing import Any

import numpy as np

from layoutner.corpus.splitter import WindowSplitter, structural_ids
from layoutner.corpus.windows import IGNORED, LABELS, Window, Windows, tag_codes, window_digest
from layoutner.documents.store import StoredDocuments, differing, piece, place_in, shard_file
from layoutner.errors import SettingsError
from layoutner.files.arrays import Array
from layoutner.pages.labels import LabelSet

# The code that cuts windows. Its text is recorded, because a checkout changes without a new version number.
CUTTERS = ("corpus/splitter.py", "pages/document.py", "pages/labels.py")


def cut_as(splitter: WindowSplitter, scheme: str, all_subwords: bool) -> dict[str, Any]:
    """All that the windows of a document depend on, by name."""
    tokenizer = splitter.tokenizer
    backend = tokenizer.backend_tokenizer
    # `cut` sets these too. Set them here so that the digest does not depend on whether `cut` has run before.
    backend.no_truncation()
    backend.no_padding()
    ids = [tokenizer.unk_token_id, tokenizer.pad_token_id, sorted(structural_ids(tokenizer))]
    code = "".join((resources.files("layoutner") / name).read_text(encoding="utf-8") for name in CUTTERS)
    return {
        "data.max_length": splitter.max_length,
        "data.stride": splitter.stride,
        "data.box_level": splitter.box_level,
        "data.scheme": scheme,
        "data.label_all_subwords": all_subwords,
        "boxes of special tokens": splitter.special_boxes,
        "tokenizer": _digest(backend.to_str(), json.dumps(ids)),
        "tokenizers": version("tokenizers"),
        "code that cuts windows": _digest(code),
    }


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


class StoredWindows(Windows):
    """The windows of documents in a store. Each is read, and compared with its digest, when it is asked for."""

    def __init__(self, documents: StoredDocuments, labels: LabelSet, first_subwords: bool) -> None:
        """All windows of the documents, in their order.

        Args:
            labels: label set of the run, which has all types of the store. It may number them in another way.
            first_subwords: label first sub-words only, though the store may have labelled all of them.
        """
        self._documents, self._store = documents, documents.store
        made_from = self._store.manifest.made_from
        tags = LabelSet(made_from["data.scheme"], self._store.manifest.numbered_types).tags
        self._codes = tag_codes(tags)
        self._new_ids = np.array([labels.ids[tag] for tag in tags], LABELS)
        self._first_subwords = first_subwords and made_from["data.label_all_subwords"]
        self._chosen: Array | None = None  # numbers of the windows among all of the store; None = all of them
        if documents.selected is not None:
            numbers = np.full(int(self._store.document_starts[-1]), -1, np.int32)
            numbers[documents.selected] = np.arange(len(documents))
            own = numbers[self._store.index["window_documents"]]
            self._chosen = np.flatnonzero(own >= 0).astype(np.int32)
            self.documents = own[self._chosen]
        else:
            self.documents = self._store.index["window_documents"]
        self.lengths = self._column("window_lengths")
        self.labelled = self._column("window_owned" if self._first_subwords else "window_labelled")
        self._places = self._column("window_places")

    def _column(self, name: str) -> Array:
        column = self._store.index[name]
        return column if self._chosen is None else column[self._chosen]

    def _window(self, index: int) -> Window:
        number, own = place_in(self._store.window_starts, int(self._places[index]))
        shard, document = self._store.shard(number), int(self.documents[index])
        tokens = slice(*shard["token_starts"][own : own + 2])
        # Copies, a few kilobytes: the store lets go of the memory of what it maps.
        input_ids, boxes, labels = (shard[name][tokens].copy() for name in ("input_ids", "boxes", "labels"))
        owned_words = piece(shard, "owned_words", own).copy()
        window = Window(document, input_ids, boxes, labels, owned_words)
        known = self._store.index["window_digests"][index if self._chosen is None else self._chosen[index]]
        if window_digest(window, self._codes) != known.tobytes():
            raise self._store.damaged(f"window {own} of {shard_file(number)} is not what was written")
        if self._first_subwords:
            firsts = np.full_like(labels, IGNORED)
            firsts[owned_words[:, 0]] = labels[owned_words[:, 0]]
            labels = firsts
        labels = np.where(labels == IGNORED, labels, self._new_ids[np.maximum(labels, 0)])
        image = self._documents.image(document)
        return Window(document, input_ids, boxes, labels, owned_words, image)

    def label_counts(self, tags: int, indices: Sequence[int] | None = None) -> list[int]:
        """See `Windows`; those of a whole store were counted when it was built."""
        if indices is not None or self._chosen is not None or self._first_subwords:
            return super().label_counts(tags, indices)
        counts = [0] * tags
        for entry in self._store.manifest.shards:
            for label, count in enumerate(entry.label_counts):
                counts[self._new_ids[label]] += count
        return counts

    def digests(self, tags: Sequence[str]) -> Array:
        """See `Windows`; they were computed when the store was built."""
        return self._column("window_digests")


def require_cut_as(documents: StoredDocuments, cut: dict[str, Any], said: str) -> None:
    """Refuse a store whose windows were cut in another way.

    Args:
        cut: from `cut_as`.
        said: name of the path in messages, such as "data.train".

    Raises:
        SettingsError: something differs; the message names all of it.
    """
    store = documents.store
    if differs := differing(store.manifest.made_from, cut):
        raise SettingsError(
            f"{said} = {store.path}: its windows were cut in another way: {'; '.join(differs)}: use the same settings "
            "and model, or build another store"
        )
