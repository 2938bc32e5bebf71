"""Windows: the tokens of one document as a network takes them, one by one and many of them as flat arrays."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from layoutner.files.image import PageImage

IGNORED = -100  # label of a token that is not scored; cross_entropy's ignore_index

Array = np.ndarray[Any, Any]

# Number formats of the arrays of windows, in memory and on disk. All of them are little-endian.
IDS, BOXES, LABELS, OWNED = np.dtype("<i4"), np.dtype("<u2"), np.dtype("<i2"), np.dtype("<i4")
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Window:
    """T tokens of one document, special tokens included. The arrays are views of those of all windows."""

    document: int  # index of the document
    input_ids: Array  # T
    boxes: Array  # T x 4; x0, y0, x1, y1 in thousandths of the page
    labels: Array  # T; tag id at the first sub-word (or at all sub-words) of the words it owns, else IGNORED
    owned_words: Array  # n x 2; (token index of the first sub-word, word index) of the words it owns
    image: PageImage | None = None  # image of the document's page

    @property
    def length(self) -> int:
        return len(self.input_ids)

    @property
    def labelled(self) -> int:
        """Number of tokens with a label: the terms of the loss."""
        return int(np.count_nonzero(np.asarray(self.labels) != IGNORED))


class Windows(Sequence[Window]):
    """N windows as flat arrays, in the order of their documents. `corpus/store.py` has those on disk."""

    lengths: Array  # N; tokens of each window
    labelled: Array  # N; labelled tokens of each window
    documents: Array  # N; index of each window's document

    def __init__(self, windows: Iterable[Window]) -> None:
        """Append the windows to arrays, one by one; none of them is kept."""
        columns = [(bytearray(), dtype) for dtype in (IDS, BOXES, LABELS, OWNED)]
        documents, lengths, owned = [], [], []
        self._images: dict[int, PageImage] = {}
        for window in windows:
            values = (window.input_ids, window.boxes, window.labels, window.owned_words)
            for (column, dtype), own in zip(columns, values, strict=True):
                column += np.asarray(own, dtype).tobytes()
            documents.append(window.document)
            lengths.append(window.length)
            owned.append(len(window.owned_words))
            if window.image is not None:
                self._images[window.document] = window.image
        self.documents, self.lengths = np.array(documents, np.int32), np.array(lengths, np.int32)
        flat = [np.frombuffer(column, dtype) for column, dtype in columns]
        self.input_ids, self.boxes, self.labels = flat[0], flat[1].reshape(-1, 4), flat[2]
        self.owned_words = flat[3].reshape(-1, 2)
        self.starts, self.owned_starts = ends_of(self.lengths), ends_of(owned)
        before = np.concatenate([[0], np.cumsum(self.labels != IGNORED)])
        self.labelled = (before[self.starts[1:]] - before[self.starts[:-1]]).astype(np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Window: ...
    @overload
    def __getitem__(self, index: slice) -> list[Window]: ...
    def __getitem__(self, index: int | slice) -> Window | list[Window]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        return self._window(range(len(self))[index])

    def _window(self, index: int) -> Window:
        tokens = slice(self.starts[index], self.starts[index + 1])
        owned = self.owned_words[self.owned_starts[index] : self.owned_starts[index + 1]]
        document = int(self.documents[index])
        image = self._images.get(document)
        return Window(document, self.input_ids[tokens], self.boxes[tokens], self.labels[tokens], owned, image)

    @property
    def tokens(self) -> int:
        """Number of tokens of all windows."""
        return int(self.lengths.sum(dtype=np.int64))

    def label_counts(self, tags: int, indices: Sequence[int] | None = None) -> list[int]:
        """Number of tokens with each label, by label id.

        Args:
            tags: number of tags.
            indices: of the windows to count; None = all windows.
        """
        counts = np.zeros(tags, np.int64)
        for index in range(len(self)) if indices is None else indices:
            labels = self[index].labels
            counts += np.bincount(labels[labels != IGNORED], minlength=tags)
        return [int(count) for count in counts]

    def digests(self, tags: Sequence[str]) -> Array:
        """A digest of each window, N x DIGEST_BYTES: of its tokens, boxes, tags and owned words; see `window_digest`.

        Args:
            tags: label id -> tag.
        """
        codes = tag_codes(tags)
        found = b"".join(window_digest(window, codes) for window in self)
        return np.frombuffer(found, np.uint8).reshape(-1, DIGEST_BYTES)

    def digest(self, tags: Sequence[str]) -> str:
        """Digest of all windows, 16 hexadecimal digits: equal for equal windows in the same order."""
        whole = hashlib.sha256(np.ascontiguousarray(self.documents, "<i4").data)
        whole.update(np.ascontiguousarray(self.digests(tags)).data)
        return whole.hexdigest()[:16]


def ends_of(lengths: Iterable[int]) -> Array:
    """Where each piece begins in a flat array, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(np.fromiter(lengths, np.int64))])


def tag_codes(tags: Sequence[str]) -> Array:
    """A number for each tag, by label id + 1, that does not depend on the other tags; the first is for IGNORED."""
    codes = [int.from_bytes(hashlib.sha256(tag.encode()).digest()[:4], "little") for tag in tags]
    return np.array([0, *codes], "<u4")


def window_digest(window: Window, codes: Array) -> bytes:
    """Digest of what a window holds, with the tags themselves in place of their ids.

    So it is the same whatever the other labels of the data are.

    Args:
        codes: of the tags that the window's labels number, from `tag_codes`.
    """
    digest = hashlib.blake2b(len(window.input_ids).to_bytes(4, "little"), digest_size=DIGEST_BYTES)
    digest.update(np.ascontiguousarray(window.input_ids, IDS).data)
    digest.update(np.ascontiguousarray(window.boxes, BOXES).data)
    digest.update(codes[np.maximum(window.labels, -1) + 1].data)
    digest.update(np.ascontiguousarray(window.owned_words, OWNED).data)
    return digest.digest()
