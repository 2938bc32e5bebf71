"""Documents become windows of sub-words that fit the model, and words find back to their window."""

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
    """T tokens of one document, special tokens included. The lists run in parallel."""

    document: int  # index of the document
    input_ids: list[int]
    boxes: list[Box]
    labels: list[int]  # id of the tag at the first sub-word (or all) of a word this window answers for, else IGNORED
    owned_words: list[tuple[int, int]]  # (first sub-word's token, word): the words this window answers for
    image: PageImage | None = None  # of the document's page

    @property
    def length(self) -> int:
        return len(self.input_ids)

    @property
    def labelled(self) -> int:
        """Tokens with a label: what the loss is summed over."""
        return len(self.labels) - self.labels.count(IGNORED)


# What a tokenizer calls the tokens that mark where a text begins, ends, is padded, hidden or not known.
STRUCTURAL = ("bos", "eos", "cls", "sep", "pad", "mask", "unk")


def structural_ids(tokenizer: Any) -> set[int]:
    """Ids of the tokens that structure the network's input, by their name or because they are put around the words.

    Not those that transformers calls special because somebody added them as such (additional_special_tokens).
    """
    named = {getattr(tokenizer, f"{name}_token_id") for name in STRUCTURAL} - {None}
    return named | set(tokenizer.backend_tokenizer.encode([], is_pretokenized=True).ids)


@dataclass(frozen=True)
class WindowSplitter:
    """Cuts documents into windows. `tokenizer` is a fast transformers tokenizer."""

    tokenizer: Any
    max_length: int  # tokens a window, special tokens included
    stride: int  # tokens that neighbouring windows share, at most
    box_level: str = "word"  # or "segment": every word has the box around its whole segment
    # Boxes of the special tokens before and after the words; those of LayoutLM.
    special_boxes: tuple[Box, Box] = ((0, 0, 0, 0), (1000, 1000, 1000, 1000))

    def split(self, documents: Sequence[Document], labels: LabelSet | None, all_subwords: bool = False) -> list[Window]:
        """All windows of all documents, in order. With `labels`, the documents' tags become label ids.

        A tag stands at its word's first sub-word, which is where the word is read; with `all_subwords` the later
        ones are labelled too, as `LabelSet.continued` says.

        Every word is answered for, and labelled, by exactly one window: the one that shows most context
        around it. So nothing is counted twice where windows overlap.

        Raises:
            SettingsError: max_length leaves no room for words.
        """
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.backend_tokenizer.no_padding()
        special = self.tokenizer.backend_tokenizer.encode([], is_pretokenized=True).ids
        room = self.max_length - len(special)
        if room < 1 or self.stride >= room:
            raise SettingsError(
                f"data.max_length = {self.max_length} leaves {room} sub-words beside {len(special)} special tokens; "
                f"data.stride = {self.stride} must be less"
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
        """Windows of one document. `tags` are label ids: of a word's first sub-word and of its later ones."""
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
            """Tokens on the poorer side of a word within a window."""
            return min(starts[word] - starts[span[0]], starts[span[1]] - starts[word] - 1)

        owner: dict[int, int] = {}  # word -> number of the window that answers for it
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
            if owned_words:  # a window may hold nothing but words that its neighbours show with more context
                windows.append(Window(index, input_ids, boxes, label_ids, owned_words, document.image))
        return windows

    def _pieces(self, words: Sequence[str]) -> tuple[list[int], list[list[int]], list[int]]:
        """Special tokens before, sub-words of each word (never none), special tokens after."""
        # The Rust tokenizer itself: the wrappers of the layout families want boxes, and each its own way.
        encoding = self.tokenizer.backend_tokenizer.encode(list(words), is_pretokenized=True)
        ids, word_ids = encoding.ids, encoding.word_ids
        unknown = self.tokenizer.unk_token_id
        unknown = self.tokenizer.pad_token_id if unknown is None else unknown
        structural = structural_ids(self.tokenizer)
        pieces: list[list[int]] = [[] for _ in words]
        for token, word in zip(ids, word_ids, strict=True):
            if word is not None:
                # "[SEP]" or "</s>" printed on a page is text, and must not pass for the end of it. A token that
                # somebody has added, special or not, such as "<num>" for any number, is what the page says.
                pieces[word].append(unknown if token in structural else token)
        # A word of characters that the tokenizer drops would have no token, and so no label.
        pieces = [piece or [unknown] for piece in pieces]
        inner = [place for place, word in enumerate(word_ids) if word is not None] or [len(ids) // 2]
        prefix = ids[: inner[0]]
        suffix = ids[inner[-1] + 1 :] if any(word is not None for word in word_ids) else ids[inner[0] :]
        return prefix, pieces, suffix
