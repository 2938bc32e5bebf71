"""Split documents into windows of sub-words that fit the model, and assign each word to exactly one window."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from layoutner.corpus.windows import BOXES, IDS, IGNORED, LABELS, OWNED, Array, Window, Windows, ends_of
from layoutner.errors import SettingsError
from layoutner.pages.document import Box, Document
from layoutner.pages.labels import LabelSet, rewrite

# Names of the structural tokens of a tokenizer: those that mark begin, end, padding, masked and unknown text.
STRUCTURAL = ("bos", "eos", "cls", "sep", "pad", "mask", "unk")


def structural_ids(tokenizer: Any) -> set[int]:
    """Ids of the structural tokens: those named in STRUCTURAL, and those that the tokenizer puts around the words.

    Tokens that a user added as special (additional_special_tokens) are not among them.
    """
    named = {getattr(tokenizer, f"{name}_token_id") for name in STRUCTURAL} - {None}
    return named | set(tokenizer.backend_tokenizer.encode([], is_pretokenized=True).ids)


@dataclass(frozen=True)
class WindowSplitter:
    """Splits documents into windows. `tokenizer` is a fast transformers tokenizer."""

    tokenizer: Any
    max_length: int  # tokens per window, special tokens included
    stride: int  # tokens that neighbouring windows share, at most
    box_level: str = "word"  # or "segment": every word gets the bounding box of its segment
    # Boxes of the special tokens before and after the words; those of LayoutLM.
    special_boxes: tuple[Box, Box] = ((0, 0, 0, 0), (1000, 1000, 1000, 1000))

    def split(self, documents: Iterable[Document], labels: LabelSet | None, all_subwords: bool = False) -> Windows:
        """All windows of all documents, in order, as flat arrays; see `cut`."""
        return Windows(self.cut(documents, labels, all_subwords))

    def cut(
        self, documents: Iterable[Document], labels: LabelSet | None, all_subwords: bool = False
    ) -> Iterator[Window]:
        """Yield the windows of all documents, in order. With `labels`, the documents' tags become label ids.

        The label of a word is at its first sub-word, where predictions are read too. With `all_subwords`, its other
        sub-words are labelled as well; see `LabelSet.continued`.

        Windows overlap, but each word is owned by exactly one window: the one with the most context around the word.
        Only this window labels and predicts the word, so no word is counted twice.

        Raises:
            SettingsError: max_length leaves no room for words, or stride is too large for it.
        """
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.backend_tokenizer.no_padding()
        special = self.tokenizer.backend_tokenizer.encode([], is_pretokenized=True).ids
        room = self.max_length - len(special)
        if room < 1 or self.stride >= room:
            raise SettingsError(
                f"data.max_length = {self.max_length} leaves {room} sub-words after {len(special)} special tokens; "
                f"data.stride = {self.stride} must be less than {room}"
            )
        structural = structural_ids(self.tokenizer)
        ids: dict[str, int] = {} if labels is None else labels.ids
        continued = np.array([] if labels is None else labels.continued, LABELS)
        for index, document in enumerate(documents):
            if not document.words:
                continue
            firsts = laters = np.full(len(document.words), IGNORED, LABELS)
            if labels is not None and document.tags is not None:
                firsts = np.array([ids[tag] for tag in rewrite(document.tags, labels.scheme)], LABELS)
                laters = continued[firsts] if all_subwords else laters
            yield from self._cut(index, document, firsts, laters, room, structural)

    def _cut(
        self, index: int, document: Document, firsts_W: Array, laters_W: Array, room: int, structural: set[int]
    ) -> Iterator[Window]:
        """Windows of one document. `firsts_W`, `laters_W`: label ids of each word's first and later sub-words."""
        prefix, pieces, suffix = self._pieces(document.words, structural)
        pieces = [piece[:room] for piece in pieces]
        starts_W = ends_of(map(len, pieces))  # token at which word w starts; the last is the number of tokens
        spans, owner = self._spans(starts_W.tolist(), room)
        # The tokens of the whole document, of which windows are slices.
        counts_W = np.diff(starts_W)
        ids_T = np.fromiter(chain.from_iterable(pieces), IDS, int(starts_W[-1]))
        labels_T = np.repeat(laters_W, counts_W)
        labels_T[starts_W[:-1]] = firsts_W
        word_boxes = document.segment_boxes() if self.box_level == "segment" else document.boxes
        boxes_T4 = np.repeat(np.array(word_boxes, BOXES), counts_W, axis=0)
        first_box, last_box = ([box] * len(ids) for box, ids in zip(self.special_boxes, (prefix, suffix), strict=True))
        owner_W = np.array(owner)
        for number, (first, after) in enumerate(spans):
            owned = owner_W[first:after] == number
            if not owned.any():
                continue  # all of its words are owned by its neighbours
            start, end = starts_W[first], starts_W[after]
            labels = np.where(np.repeat(owned, counts_W[first:after]), labels_T[start:end], IGNORED)
            words = first + np.flatnonzero(owned)
            yield Window(
                index,
                np.concatenate([prefix, ids_T[start:end], suffix]).astype(IDS),
                np.concatenate(
                    [
                        np.array(first_box, BOXES).reshape(-1, 4),
                        boxes_T4[start:end],
                        np.array(last_box, BOXES).reshape(-1, 4),
                    ]
                ),
                np.concatenate([[IGNORED] * len(prefix), labels, [IGNORED] * len(suffix)]).astype(LABELS),
                np.stack([starts_W[words] - start + len(prefix), words], axis=1).astype(OWNED),
                document.image,
            )

    def _spans(self, starts: list[int], room: int) -> tuple[list[tuple[int, int]], list[int]]:
        """Windows as (first word, word after the last), cut between words; and the window that owns each word."""
        spans: list[tuple[int, int]] = []
        words, first = len(starts) - 1, 0
        while True:
            after = first + 1
            while after < words and starts[after + 1] - starts[first] <= room:
                after += 1
            spans.append((first, after))
            if after == words:
                break
            first = next(
                w for w in range(first + 1, after + 1) if w == after or starts[after] - starts[w] <= self.stride
            )

        def context(word: int, span: tuple[int, int]) -> int:
            """Context of a word in a window: tokens before it or after it, whichever are fewer."""
            return min(starts[word] - starts[span[0]], starts[span[1]] - starts[word] - 1)

        owner = [-1] * words
        for number, span in enumerate(spans):
            for word in range(*span):
                if owner[word] < 0 or context(word, span) > context(word, spans[owner[word]]):
                    owner[word] = number
        return spans, owner

    def _pieces(self, words: Sequence[str], structural: set[int]) -> tuple[list[int], list[list[int]], list[int]]:
        """Special tokens before, sub-words of each word (at least one), special tokens after."""
        # Call the Rust tokenizer directly: the wrappers of the layout families require boxes, each in its own way.
        encoding = self.tokenizer.backend_tokenizer.encode(list(words), is_pretokenized=True)
        ids, word_ids = encoding.ids, encoding.word_ids
        unknown = self.tokenizer.unk_token_id
        unknown = self.tokenizer.pad_token_id if unknown is None else unknown
        pieces: list[list[int]] = [[] for _ in words]
        for token, word in zip(ids, word_ids, strict=True):
            if word is not None:
                # "[SEP]" or "</s>" printed on a page is text, so map it to the unknown token. Tokens that a user has
                # added, special or not, such as "<num>", are kept.
                pieces[word].append(unknown if token in structural else token)
        # Give one token to a word whose characters the tokenizer drops, so that it still gets a label.
        pieces = [piece or [unknown] for piece in pieces]
        inner = [place for place, word in enumerate(word_ids) if word is not None] or [len(ids) // 2]
        prefix = ids[: inner[0]]
        suffix = ids[inner[-1] + 1 :] if any(word is not None for word in word_ids) else ids[inner[0] :]
        return prefix, pieces, suffix
