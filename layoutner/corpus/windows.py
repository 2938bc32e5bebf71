"""Split documents into windows of sub-words that fit the model, and assign each word to exactly one window."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from layoutner.errors import SettingsError
from layoutner.files.image import PageImage
from layoutner.pages.document import Box, Document
from layoutner.pages.labels import LabelSet, rewrite

IGNORED = -100  # label of a token that is not scored; cross_entropy's ignore_index


@dataclass(frozen=True)
class Window:
    """T tokens of one document, special tokens included. `input_ids`, `boxes` and `labels` have length T."""

    document: int  # index of the document
    input_ids: list[int]
    boxes: list[Box]
    labels: list[int]  # tag id at the first sub-word (or at all sub-words) of the words it owns, else IGNORED
    owned_words: list[tuple[int, int]]  # (token index of the first sub-word, word index) of the words it owns
    image: PageImage | None = None  # image of the document's page

    @property
    def length(self) -> int:
        return len(self.input_ids)

    @property
    def labelled(self) -> int:
        """Number of tokens with a label: the terms of the loss."""
        return len(self.labels) - self.labels.count(IGNORED)


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

    def split(self, documents: Sequence[Document], labels: LabelSet | None, all_subwords: bool = False) -> list[Window]:
        """All windows of all documents, in order. With `labels`, the documents' tags become label ids.

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
        found = []
        for index, document in enumerate(documents):
            if document.words:
                tags = None
                if labels is not None and document.tags is not None:
                    ids = labels.ids
                    firsts = [ids[tag] for tag in rewrite(document.tags, labels.scheme)]
                    continued = labels.continued
                    tags = [(first, continued[first] if all_subwords else IGNORED) for first in firsts]
                found.extend(self._cut(index, document, tags, room))
        return found

    def _cut(self, index: int, document: Document, tags: list[tuple[int, int]] | None, room: int) -> list[Window]:
        """Windows of one document. `tags`: per word, the label ids of its first and of its later sub-words."""
        prefix, pieces, suffix = self._pieces(document.words)
        pieces = [piece[:room] for piece in pieces]
        word_boxes = document.segment_boxes() if self.box_level == "segment" else document.boxes
        starts = [0]  # token at which word w starts; starts[-1] is the number of tokens
        for piece in pieces:
            starts.append(starts[-1] + len(piece))
        # Windows as (first word, word after the last), cut between words.
        spans: list[tuple[int, int]] = []
        first = 0
        while True:
            after = first + 1
            while after < len(pieces) and starts[after + 1] - starts[first] <= room:
                after += 1
            spans.append((first, after))
            if after == len(pieces):
                break
            first = next(
                w for w in range(first + 1, after + 1) if w == after or starts[after] - starts[w] <= self.stride
            )

        def context(word: int, span: tuple[int, int]) -> int:
            """Context of a word in a window: tokens before it or after it, whichever are fewer."""
            return min(starts[word] - starts[span[0]], starts[span[1]] - starts[word] - 1)

        owner: dict[int, int] = {}  # word -> number of the window that owns it
        for number, span in enumerate(spans):
            for word in range(*span):
                if word not in owner or context(word, span) > context(word, spans[owner[word]]):
                    owner[word] = number

        windows = []
        for number, (first, after) in enumerate(spans):
            input_ids, boxes, owned_words = [*prefix], [self.special_boxes[0]] * len(prefix), []
            label_ids = [IGNORED] * len(prefix)
            for word in range(first, after):
                first_id, later_id = IGNORED, IGNORED
                if owner[word] == number:
                    owned_words.append((len(input_ids), word))
                    if tags is not None:
                        first_id, later_id = tags[word]
                label_ids.extend([first_id, *[later_id] * (len(pieces[word]) - 1)])
                input_ids.extend(pieces[word])
                boxes.extend([word_boxes[word]] * len(pieces[word]))
            input_ids.extend(suffix)
            boxes.extend([self.special_boxes[1]] * len(suffix))
            label_ids.extend([IGNORED] * len(suffix))
            if owned_words:  # skip a window whose words are all owned by its neighbours
                windows.append(Window(index, input_ids, boxes, label_ids, owned_words, document.image))
        return windows

    def _pieces(self, words: Sequence[str]) -> tuple[list[int], list[list[int]], list[int]]:
        """Special tokens before, sub-words of each word (at least one), special tokens after."""
        # Call the Rust tokenizer directly: the wrappers of the layout families require boxes, each in its own way.
        encoding = self.tokenizer.backend_tokenizer.encode(list(words), is_pretokenized=True)
        ids, word_ids = encoding.ids, encoding.word_ids
        unknown = self.tokenizer.unk_token_id
        unknown = self.tokenizer.pad_token_id if unknown is None else unknown
        structural = structural_ids(self.tokenizer)
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
