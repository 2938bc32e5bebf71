"""Words to windows and back: nothing lost, nothing twice."""

import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from seqeval.metrics import f1_score
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from layoutner.corpus.splitter import WindowSplitter
from layoutner.corpus.windows import IGNORED
from layoutner.distributed.ranks import Ranks
from layoutner.errors import SettingsError
from layoutner.models.collator import Collator
from layoutner.models.families import FAMILIES
from layoutner.objectives.evaluate import evaluate
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet
from layoutner.planning.batch_plan import MicroBatchLimit
from tests.builders.forks import fork
from tests.builders.windows import plain

ALONE = Ranks(rank=0, size=1, device=torch.device("cpu"))

FIRST_BOX, LAST_BOX = (0, 0, 0, 0), (1000, 1000, 1000, 1000)  # of [CLS] and [SEP], as LayoutLM was trained

LABELS = LabelSet("BIO", ("A", "B"))
TEXTS = ["brass", "wheel", "12", "Order", "x", "steel-frame-panel", "\u200b", "Größe", "日本", "😀", "a b", "O'Neil"]


def document(rng: random.Random, words: int) -> Document:
    boxes = []
    for _ in range(words):
        x, y = rng.randrange(900), rng.randrange(900)
        boxes.append((x, y, x + rng.randrange(100), y + rng.randrange(100)))
    tags = [rng.choice(["O", "B-A", "B-B"]) for _ in range(words)]
    return Document("d", tuple(rng.choice(TEXTS) for _ in range(words)), tuple(boxes), tuple(tags), (100, 100))


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize(("max_length", "stride"), [(16, 0), (16, 5), (32, 16), (200, 50), (8, 2)])
def test_every_word_is_answered_for_once(
    family: str, max_length: int, stride: int, checkpoints: dict[str, Path]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints[family])
    splitter = WindowSplitter(tokenizer, max_length, stride)
    rng = random.Random(max_length + stride)
    documents = [document(rng, rng.randrange(0, 120)) for _ in range(20)]
    windows = plain(splitter.split(documents, LABELS))
    answered = [(w.document, word) for w in windows for _, word in w.owned_words]
    assert sorted(answered) == [(d, w) for d, doc in enumerate(documents) for w in range(len(doc.words))]
    for window in windows:
        assert window.length <= max_length
        assert len(window.boxes) == len(window.labels) == window.length
        assert (window.boxes[0], window.boxes[-1]) == (FIRST_BOX, LAST_BOX)
        assert window.input_ids[0] == tokenizer.cls_token_id
        assert window.input_ids[-1] == tokenizer.sep_token_id
        page = documents[window.document]
        for token, word in window.owned_words:
            assert window.boxes[token] == page.boxes[word]
            assert window.labels[token] == LABELS.ids[(page.tags or ())[word]]
        assert sum(label != IGNORED for label in window.labels) == len(window.owned_words)


def test_a_word_is_answered_for_where_it_has_most_context(checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    page = Document("d", ("x",) * 20, ((0, 0, 1, 1),) * 20, None, (10, 10))
    first, second, *_ = plain(WindowSplitter(tokenizer, 12, 4).split([page], None))
    # Windows of 10 words that share 4: words 0-9 and 6-15. Of the shared 6, 7, 8, 9 each takes two.
    assert [word for _, word in first.owned_words] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [word for _, word in second.owned_words][:2] == [8, 9]


def test_sub_words_follow_their_word(checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    page = Document("d", ("steel-frame", "x"), ((1, 2, 3, 4), (5, 6, 7, 8)), ("B-A", "O"), (10, 10))
    (window,) = plain(WindowSplitter(tokenizer, 64, 0).split([page], LABELS))
    pieces = len(tokenizer("steel-frame", add_special_tokens=False)["input_ids"])
    assert pieces > 1
    assert window.labels == [IGNORED, LABELS.ids["B-A"], *[IGNORED] * (pieces - 1), 0, IGNORED]
    assert window.boxes == [FIRST_BOX, *[(1, 2, 3, 4)] * pieces, (5, 6, 7, 8), LAST_BOX]


@pytest.mark.parametrize(("scheme", "tag"), [("BIO", "B-A"), ("BIOES", "S-A")])
def test_all_sub_words_carry_a_label_where_asked(scheme: str, tag: str, checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    labels = LabelSet(scheme, ("A", "B"))
    page = Document("d", ("steel-frame", "x-x"), ((1, 2, 3, 4), (5, 6, 7, 8)), ("B-A", "O"), (10, 10))
    (window,) = plain(WindowSplitter(tokenizer, 64, 0).split([page], labels, all_subwords=True))
    steel, x = (len(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in page.words)
    first, later = labels.ids[tag], labels.ids["I-A"]
    assert window.labels == [IGNORED, first, *[later] * (steel - 1), *[0] * x, IGNORED]
    assert window.owned_words == [(1, 0), (1 + steel, 1)]
    assert window.labelled == steel + x


def test_a_special_token_printed_on_a_page_is_no_special_token(checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    page = Document("d", ("[SEP]", "x", "[PAD]"), ((1, 2, 3, 4),) * 3, None, (10, 10))
    (window,) = plain(WindowSplitter(tokenizer, 64, 0).split([page], None))
    unknown, (x,) = tokenizer.unk_token_id, tokenizer("x", add_special_tokens=False)["input_ids"]
    assert window.input_ids == [tokenizer.cls_token_id, unknown, x, unknown, tokenizer.sep_token_id]


STRUCTURAL = ("bos", "eos", "cls", "sep", "pad", "mask", "unk")


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"layoutlmv2"}))
def test_a_token_that_the_user_added_is_what_the_page_says(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    made = AutoTokenizer.from_pretrained(checkpoints[family])
    structural = [getattr(made, f"{name}_token") for name in STRUCTURAL]
    structural = sorted({token for token in structural if token is not None})
    before = len(made)
    # A structural token stays one if it is named among the added ones, too.
    made.add_special_tokens({"additional_special_tokens": ["<num>", "<cur>", made.sep_token]})
    made.add_tokens(["<date>"])
    made.save_pretrained(tmp_path)
    for tokenizer in (made, AutoTokenizer.from_pretrained(tmp_path)):
        assert tokenizer.convert_tokens_to_ids(["<num>", "<cur>", "<date>"]) == [before, before + 1, before + 2]
        words = ("<num>", "<cur>", "x<num>.", "<date>", *structural)
        page = Document("d", words, ((1, 2, 3, 4),) * len(words), None, (10, 10))
        (window,) = plain(WindowSplitter(tokenizer, 64, 0).split([page], None))
        starts = [token for token, _ in window.owned_words]
        pieces = [window.input_ids[start:end] for start, end in pairwise([*starts, window.length - 1])]
        assert pieces[:2] == [[before], [before + 1]]
        assert pieces[2].count(before) == 1  # within a word, as the tokenizer cuts it
        assert pieces[3] == [before + 2]
        assert pieces[4:] == [[tokenizer.unk_token_id]] * len(structural)


def test_the_ends_of_a_window_printed_on_a_page_are_text_by_whatever_name(checkpoints: dict[str, Path]) -> None:
    # Of a tokenizer that puts them there, but does not call them special.
    backend = AutoTokenizer.from_pretrained(checkpoints["bert"]).backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")
    assert tokenizer.sep_token_id is None
    page = Document("d", ("[SEP]", "[CLS]"), ((1, 2, 3, 4),) * 2, None, (10, 10))
    (window,) = plain(WindowSplitter(tokenizer, 64, 0).split([page], None))
    assert tokenizer.convert_ids_to_tokens(window.input_ids) == ["[CLS]", "[UNK]", "[UNK]", "[SEP]"]


def test_f1_is_over_documents_whatever_the_windows(checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    rng = random.Random(9)
    pages = [document(rng, words) for words in (0, 1, 150, 37)]

    def by_piece(piece: int) -> int:
        return piece * 7 % len(LABELS.tags)

    def forward(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        # Answers by the sub-word alone, so that a word gets the same label in any window.
        return torch.nn.functional.one_hot(by_piece(inputs["input_ids"]), len(LABELS.tags)).float()

    encode = tokenizer.backend_tokenizer.encode
    pieces = [[encode([word], is_pretokenized=True, add_special_tokens=False).ids for word in d.words] for d in pages]
    predicted = [[LABELS.tags[by_piece((ids or [tokenizer.unk_token_id])[0])] for ids in page] for page in pieces]
    truth = f1_score([list(d.tags or ()) for d in pages], predicted)  # by its default reading, conlleval's
    assert 0 < truth < 1
    counts = set()
    for cut in ((512, 128), (256, 0), (64, 16), (16, 7), (8, 3), (8, 0)):
        windows = WindowSplitter(tokenizer, *cut).split(pages, LABELS)
        scores = evaluate(
            forward,
            [(pages, windows)],
            LABELS,
            "test",
            "word",
            Collator("bert", tokenizer.pad_token_id, None, pinned=False),
            MicroBatchLimit(3),
            ALONE,
        )
        assert scores.f1 == pytest.approx(truth, abs=1e-12)
        assert scores.counts["words"] == 188
        counts.add(scores.counts["windows"])
    assert len(counts) >= 5


def test_a_word_longer_than_a_window_keeps_its_first_sub_words(checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    page = Document("d", ("x-" * 50, "x"), ((0, 0, 1, 1),) * 2, ("B-A", "O"), (10, 10))
    windows = plain(WindowSplitter(tokenizer, 16, 4).split([page], LABELS))
    assert [word for window in windows for _, word in window.owned_words] == [0, 1]


def test_room_for_nothing(checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    with pytest.raises(SettingsError, match="leaves 6 sub-words after 2 special tokens"):
        WindowSplitter(tokenizer, 8, 6).split([], None)


def test_the_windows_of_funsd(real_data: Path, minilm: Path) -> None:
    from layoutner.documents.roles import read_documents
    from layoutner.settings.data import DataSettings

    # Its vocabulary is bert-base-uncased's.
    splitter = WindowSplitter(AutoTokenizer.from_pretrained(minilm), 512, 0)
    train, test = (
        splitter.split(read_documents(DataSettings(format="funsd"), real_data / "funsd", role), None)
        for role in ("train", "test")
    )
    assert (len(train), train.tokens) == (150, 34_066)
    assert (len(test), test.tokens) == (52, 12_970)


FORMATS = {"funsd": "funsd", "unilm": "funsd_unilm"}  # format -> folder: the same forms


def test_both_formats_of_funsd_give_the_same_windows(real_data: Path, minilm: Path) -> None:
    from layoutner.documents.roles import read_corpus
    from layoutner.settings.data import DataSettings

    splitter = WindowSplitter(AutoTokenizer.from_pretrained(minilm), 512, 128)
    found = []
    for format, folder in FORMATS.items():
        path = real_data / folder
        corpus = read_corpus(DataSettings(format=format, train=path, eval=0.2, test=path), 5)
        found.append(
            [
                [
                    (window.document, window.input_ids, window.boxes, window.labels, window.owned_words)
                    for window in plain(splitter.split(documents, corpus.labels))
                ]
                for documents in (corpus.train, corpus.eval, corpus.test)
            ]
        )
    assert found[0] == found[1]
    assert sum(label != IGNORED for split in found[0] for window in split for label in window[3]) == 21_888 + 8_707


@pytest.mark.slow
def test_both_formats_of_funsd_give_the_same_losses(
    real_data: Path, train_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    losses = []
    for format, folder in FORMATS.items():
        run, data = tmp_path / format, real_data / folder
        arguments = train_arguments(run, data__format=format, data__train=data, data__eval=0.1, run__eval_every=2)
        done = fork(["layoutner", "train", *arguments, "--schedule.max_steps=4"])
        assert done.returncode == 0, done.stderr[-3000:]
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses.append([(line["train/loss"], line["train/grad_norm"], line.get("eval/loss")) for line in lines])
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]
