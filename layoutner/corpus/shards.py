"""The arrays of a store: those of one shard, and those of the index over all shards."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layoutner.corpus.windows import Windows, ends_of
from layoutner.documents.columns import DIGEST_BYTES, content_digest, group_hash, page_digest
from layoutner.documents.duplicates import compare, roots, sketch
from layoutner.documents.splits import group_pairs
from layoutner.documents.store import StoredSketches
from layoutner.files.arrays import Array
from layoutner.pages.document import Document
from layoutner.pages.encoded import image_to_bytes
from layoutner.pages.labels import LabelSet

Arrays = Mapping[str, Array]


def shard_arrays(
    contents: Sequence[bytes], documents: Sequence[Document], windows: Windows, labels: LabelSet
) -> dict[str, Array]:
    """The arrays of a shard.

    Args:
        contents: the documents as bytes.
        labels: of the windows' label ids.
    """
    sketches = [sketch(document) for document in documents]
    images = [image_to_bytes(document.image) for document in documents]
    digests = b"".join(map(content_digest, documents))
    return {
        **_joined("documents", [np.frombuffer(zlib.compress(one, 1), np.uint8) for one in contents], np.uint8),
        **_joined("images", [np.frombuffer(image, np.uint8) for image in images], np.uint8),
        **_joined("grams", [one.grams for one in sketches], np.uint64),
        **_joined("numbers", [one.numbers for one in sketches], np.uint64),
        "word_counts": np.array([len(document.words) for document in documents], np.int32),
        "page_digests": np.array([page_digest(document) for document in documents], np.uint64),
        "content_digests": np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES),
        "group_hashes": np.array([group_hash(document.group) for document in documents], np.uint64),
        "window_documents": windows.documents,
        "window_lengths": windows.lengths,
        "window_labelled": windows.labelled,
        "window_digests": windows.digests(labels.tags),
        "token_starts": windows.starts,
        "input_ids": windows.input_ids,
        "boxes": windows.boxes,
        "labels": windows.labels,
        "owned_words_starts": windows.owned_starts,
        "owned_words": windows.owned_words,
    }


def _joined(name: str, pieces: Sequence[Array], dtype: Any) -> dict[str, Array]:
    """Pieces as one flat array, with the array of their starts."""
    return {name: np.concatenate([np.zeros(0, dtype), *pieces]), f"{name}_starts": ends_of(map(len, pieces))}


def make_index(shards: Sequence[Arrays], names: Sequence[str]) -> dict[str, Array]:
    """Numbers of all documents and windows of the shards, in the order of the documents' names.

    Training sorts documents by name, so that a seed splits the same pages in the same way for any order of the files.
    """
    places = np.array(sorted(range(len(names)), key=names.__getitem__), np.int32)
    number_of = np.empty_like(places)
    number_of[places] = np.arange(len(places), dtype=np.int32)
    document_starts = ends_of(len(shard["word_counts"]) for shard in shards)

    def of_documents(name: str) -> Array:
        return np.concatenate([shard[name] for shard in shards])[places]

    own = [shard["window_documents"] + start for shard, start in zip(shards, document_starts[:-1], strict=True)]
    window_documents = number_of[np.concatenate(own)]
    window_places = np.argsort(window_documents, kind="stable").astype(np.int32)

    def of_windows(arrays: Sequence[Array]) -> Array:
        return np.concatenate(arrays)[window_places]

    group_hashes = of_documents("group_hashes")
    pairs = [*compare(StoredSketches(shards.__getitem__, document_starts, places)), *group_pairs(group_hashes)]
    return {
        "document_places": places,
        "word_counts": of_documents("word_counts"),
        "page_digests": of_documents("page_digests"),
        "content_digests": of_documents("content_digests"),
        "group_hashes": group_hashes,
        "has_image": np.concatenate([np.diff(shard["images_starts"]) > 0 for shard in shards])[places],
        "unit_roots": roots(pairs, len(places)).astype(np.int32),
        "window_places": window_places,
        "window_documents": window_documents[window_places],
        "window_lengths": of_windows([shard["window_lengths"] for shard in shards]),
        "window_labelled": of_windows([shard["window_labelled"] for shard in shards]),
        "window_owned": of_windows([np.diff(shard["owned_words_starts"]).astype(np.int32) for shard in shards]),
        "window_digests": of_windows([shard["window_digests"] for shard in shards]),
    }
