"""Windows and batches as lists of Python numbers, as layoutner built them before it had arrays: the reference."""

from typing import Any

import torch

from layoutner.corpus.batches import padded
from layoutner.corpus.splitter import WindowSplitter, structural_ids
from layoutner.corpus.windows import IGNORED, Window
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet, rewrite


def split(
    splitter: WindowSplitter, documents: list[Document], labels: LabelSet | None, all_subwords: bool = False
) -> list[Window]:
    """What `splitter.split` gives, with lists in place of arrays."""
    splitter.tokenizer.backend_tokenizer.no_truncation()
    splitter.tokenizer.backend_tokenizer.no_padding()
    room = splitter.max_length - len(splitter.tokenizer.backend_tokenizer.encode([], is_pretokenized=True).ids)
    found: list[Window] = []
    for index, document in enumerate(documents):
        if document.words:
            tags = None
            if labels is not None and document.tags is not None:
                firsts = [labels.ids[tag] for tag in rewrite(document.tags, labels.scheme)]
                tags = [(first, labels.continued[first] if all_subwords else IGNORED) for first in firsts]
            found.extend(_cut(splitter, index, document, tags, room))
    return found


def _cut(
    splitter: WindowSplitter, index: int, document: Document, tags: list[tuple[int, int]] | None, room: int
) -> list[Window]:
    prefix, pieces, suffix = splitter._pieces(document.words, structural_ids(splitter.tokenizer))
    pieces = [piece[:room] for piece in pieces]
    word_boxes = document.segment_boxes() if splitter.box_level == "segment" else document.boxes
    starts = [0]
    for piece in pieces:
        starts.append(starts[-1] + len(piece))
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
            w for w in range(first + 1, after + 1) if w == after or starts[after] - starts[w] <= splitter.stride
        )

    def context(word: int, span: tuple[int, int]) -> int:
        return min(starts[word] - starts[span[0]], starts[span[1]] - starts[word] - 1)

    owner: dict[int, int] = {}
    for number, span in enumerate(spans):
        for word in range(*span):
            if word not in owner or context(word, span) > context(word, spans[owner[word]]):
                owner[word] = number
    windows = []
    for number, (first, after) in enumerate(spans):
        input_ids: list[int] = [*prefix]
        boxes = [splitter.special_boxes[0]] * len(prefix)
        owned_words: Any = []
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
        boxes.extend([splitter.special_boxes[1]] * len(suffix))
        label_ids.extend([IGNORED] * len(suffix))
        if owned_words:
            lists: Any = (input_ids, boxes, label_ids, owned_words)
            windows.append(Window(index, *lists, document.image))
    return windows


def collate(windows: list[Window], pad_token_id: int) -> dict[str, torch.Tensor]:
    """The tensors that `layoutner.corpus.batches.collate` gives for windows of lists, by name: padded rows."""
    columns = padded(max(len(window.input_ids) for window in windows))
    shape = (len(windows), columns)
    ids_BT, mask_BT = torch.full(shape, pad_token_id), torch.zeros(shape, dtype=torch.long)
    boxes_BT4, labels_BT = torch.zeros((*shape, 4), dtype=torch.long), torch.full(shape, IGNORED)
    for row, window in enumerate(windows):
        length = len(window.input_ids)
        ids_BT[row, :length] = torch.tensor(window.input_ids)
        mask_BT[row, :length] = 1
        boxes_BT4[row, :length] = torch.tensor(window.boxes)
        labels_BT[row, :length] = torch.tensor(window.labels)
    return {"input_ids_BT": ids_BT, "attention_mask_BT": mask_BT, "boxes_BT4": boxes_BT4, "labels_BT": labels_BT}
