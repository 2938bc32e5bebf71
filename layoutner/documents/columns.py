"""Numbers per document as flat arrays, whether the documents are in memory or in a store."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from layoutner.files.arrays import Array
from layoutner.pages.document import Document

DIGEST_BYTES = 16


class Documents(Sequence[Document]):
    """N documents that are not in memory, with their columns. An item is read when it is asked for."""

    word_counts: Array  # N
    page_digests: Array  # N, uint64; see `page_digest`
    content_digests: Array  # N x DIGEST_BYTES; see `content_digest`
    group_hashes: Array  # N, uint64; see `group_hash`
    types: frozenset[str]  # the entity types of their tags

    @property
    @abstractmethod
    def unit_roots(self) -> Array:
        """For each document, the first of those that stay together with it in every split."""

    @abstractmethod
    def select(self, indices: Array) -> "Documents":
        """Some of the documents, in the given order."""

    @abstractmethod
    def sketches(self) -> Sequence[Any]:
        """The sketch of each page; see `duplicates.sketch`."""

    @abstractmethod
    def without_image(self) -> list[str]:
        """Names of the documents that have no page image."""


class Chain(Sequence[Document]):
    """Several sequences of documents, one after the other."""

    def __init__(self, parts: Sequence[Sequence[Document]]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, index: Any) -> Any:
        for part in self._parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)


def word_counts(documents: Sequence[Document]) -> Array:
    """Number of words of each document."""
    if isinstance(documents, Documents):
        return documents.word_counts
    return np.array([len(document.words) for document in documents], np.int64)


def page_digests(documents: Sequence[Document]) -> Array:
    """`page_digest` of each document, uint64."""
    if isinstance(documents, Documents):
        return documents.page_digests
    return np.array([page_digest(document) for document in documents], np.uint64)


def group_hashes(documents: Sequence[Document]) -> Array:
    """`group_hash` of each document, uint64."""
    if isinstance(documents, Documents):
        return documents.group_hashes
    return np.array([group_hash(document.group) for document in documents], np.uint64)


def without_image(documents: Sequence[Document]) -> list[str]:
    """Names of the documents that have no page image."""
    if isinstance(documents, Documents):
        return documents.without_image()
    return [document.name for document in documents if document.image is None]


def distinct(digests: Array) -> Array:
    """The values, sorted, each once. `np.unique` hashes them, which takes twenty times as long."""
    ordered = np.sort(digests)
    found: Array = ordered[np.concatenate([np.ones(len(ordered[:1]), bool), ordered[1:] != ordered[:-1]])]
    return found


def digest(documents: Sequence[Document]) -> str:
    """Digest of names, words, boxes and tags of all documents, 16 hexadecimal digits."""
    if isinstance(documents, Documents):
        whole = hashlib.sha256(np.ascontiguousarray(documents.content_digests).data)
    else:
        whole = hashlib.sha256()
        for document in documents:
            whole.update(content_digest(document))
    return whole.hexdigest()[:16]


def page_digest(document: Document) -> int:
    """Hash of a page's words and boxes, 64 bits. It does not depend on the page's name."""
    content = json.dumps([document.words, document.boxes]).encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def content_digest(document: Document) -> bytes:
    """Hash of a page's name, words, boxes and tags, DIGEST_BYTES long."""
    content = json.dumps([document.name, document.words, document.boxes, document.tags]).encode()
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def group_hash(group: str | None) -> int:
    """Hash of a group's name, 64 bits; 0 for a page without a group."""
    if group is None:
        return 0
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest(), "little") or 1
