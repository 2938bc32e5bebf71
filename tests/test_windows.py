"""Words to windows and back: nothing lost, nothing twice."""

import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from layoutner.config.errors import UserError
from layoutner.data.document import Document
from layoutner.data.labels import LabelSet
from layoutner.data.windows import IGNORED, Windower

FIRST_BOX, LAST_BOX = (0, 0, 0, 0), (1000, 1000, 1000, 1000)  # of [CLS] and [SEP], as LayoutLM was trained

LABELS = LabelSet("BIO", ("A", "B"))
TEXTS = ["brass", "wheel", "12", "Order", "x", "steel-frame-panel", "\u200b", "Größe", "日本", "😀", "a b", "O'Neil"]


def document(dice: random.Random, words: int) -> Document:
    boxes = []
    for _ in range(words):
        x, y = dice.randrange(900), dice.randrange(900)
        boxes.append((x, y, x + dice.randrange(100), y + dice.randrange(100)))
    tags = [dice.choice(["O", "B-A", "B-B"]) for _ in range(words)]
    return Document("d", tuple(dice.choice(TEXTS) for _ in range(words)), tuple(boxes), tuple(tags), (100, 100))


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize(("max_length", "stride"), [(16, 0), (16, 5), (32, 16), (200, 50), (8, 2)])
def test_every_word_is_answered_for_once(
    family: str, max_length: int, stride: int, checkpoints: dict[str, Path]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints[family])
    windower = Windower(tokenizer, max_length, stride)
    dice = random.Random(max_length + stride)
    documents = [document(dice, dice.randrange(0, 120)) for _ in range(20)]
    windows = windower.windows(documents, LABELS)
    answered = [(w.document, word) for w in windows for _, word in w.answers]
    assert sorted(answered) == [(d, w) for d, doc in enumerate(documents) for w in range(len(doc.words))]
    for window in windows:
        assert window.length <= max_length
        assert len(window.boxes) == len(window.labels) == window.length
        assert (window.boxes[0], window.boxes[-1]) == (FIRST_BOX, LAST_BOX)
        assert window.input_ids[0] == tokenizer.cls_token_id
        assert window.input_ids[-1] == tokenizer.sep_token_id
        page = documents[window.document]
        for token, word in window.answers:
            assert window.boxes[token] == page.boxes[word]
            assert window.labels[token] == LABELS.ids[(page.tags or ())[word]]
        assert sum(label != IGNORED for label in window.labels) == len(window.answers)


def test_a_word_is_answered_for_where_it_has_most_context(checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    page = Document("d", ("x",) * 20, ((0, 0, 1, 1),) * 20, None, (10, 10))
    first, second, *_ = Windower(tokenizer, 12, 4).windows([page], None)
    # Windows of 10 words that share 4: words 0-9 and 6-15. Of the shared 6, 7, 8, 9 each takes two.
    assert [word for _, word in first.answers] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [word for _, word in second.answers][:2] == [8, 9]


def test_sub_words_follow_their_word(checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    page = Document("d", ("steel-frame", "x"), ((1, 2, 3, 4), (5, 6, 7, 8)), ("B-A", "O"), (10, 10))
    (window,) = Windower(tokenizer, 64, 0).windows([page], LABELS)
    pieces = len(tokenizer("steel-frame", add_special_tokens=False)["input_ids"])
    assert pieces > 1
    assert window.labels == [IGNORED, LABELS.ids["B-A"], *[IGNORED] * (pieces - 1), 0, IGNORED]
    assert window.boxes == [FIRST_BOX, *[(1, 2, 3, 4)] * pieces, (5, 6, 7, 8), LAST_BOX]


def test_a_word_longer_than_a_window_keeps_its_first_sub_words(checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    page = Document("d", ("x-" * 50, "x"), ((0, 0, 1, 1),) * 2, ("B-A", "O"), (10, 10))
    windows = Windower(tokenizer, 16, 4).windows([page], LABELS)
    assert [word for window in windows for _, word in window.answers] == [0, 1]


def test_room_for_nothing(checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    with pytest.raises(UserError, match="leaves 6 sub-words beside 2 special tokens"):
        Windower(tokenizer, 8, 6).windows([], None)


def test_the_windows_of_funsd(real_data: Path, minilm: Path) -> None:
    from layoutner.config.settings import DataSettings
    from layoutner.data.corpus import read_documents

    # Its vocabulary is bert-base-uncased's.
    windower = Windower(AutoTokenizer.from_pretrained(minilm), 512, 0)
    train, test = (
        windower.windows(read_documents(DataSettings(format="funsd"), real_data / "funsd", role), None)
        for role in ("train", "test")
    )
    assert (len(train), sum(w.length for w in train)) == (150, 34_066)
    assert (len(test), sum(w.length for w in test)) == (52, 12_970)
