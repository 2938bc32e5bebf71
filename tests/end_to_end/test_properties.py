"""Whatever the words, boxes, tags and lengths: cut into windows and merged again, nothing is lost, twice or swapped.

Three kinds of tokenizer are trained here on a few lines, so most words are strange to them. Examples are drawn by
hypothesis from a fixed seed.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from layoutner.corpus.splitter import WindowSplitter
from layoutner.corpus.windows import IGNORED, Window, Windows
from layoutner.distributed.ranks import Ranks
from layoutner.inference.labelled_page import label_page
from layoutner.models.collator import Collator
from layoutner.objectives.evaluate import Predictions, WordPrediction, in_document_order, label_words
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet, Span, rewrite, to_spans, to_tags
from layoutner.planning.batch_plan import MicroBatchLimit
from tests.builders.scores import score_tags, seqeval_scores
from tests.builders.windows import plain

# Neither how long an example takes nor any other of hypothesis's measures of health depends on what is tested here.
drawn = settings(
    deadline=None, derandomize=True, max_examples=100, suppress_health_check=list(HealthCheck), database=None
)

ALONE = Ranks(rank=0, size=1, device=torch.device("cpu"))
TYPES = ("A", "B-C", "Ü")  # a type may hold a dash or any letter
LINES = ["Order date 12 Feb brass wheel From To page total 3.50", "naïve Größe 日本 steel-frame שלום the quick fox"] * 3
KINDS = ("WordPiece", "BPE", "BPE with a space before", "Unigram")


@cache
def tokenizer(kind: str) -> Any:
    """A small tokenizer with two special tokens, one before and one after the words."""
    if kind == "WordPiece":
        names = {"cls": "[CLS]", "pad": "[PAD]", "sep": "[SEP]", "unk": "[UNK]"}
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer
        options: dict[str, Any] = {"vocab_size": 150}
    else:
        names = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>"}
        if kind == "Unigram":
            made = Tokenizer(models.Unigram())
            made.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
            made.pre_tokenizer = pre_tokenizers.Metaspace()
            trainer, options = trainers.UnigramTrainer, {"vocab_size": 120, "unk_token": "<unk>"}
        else:
            made = Tokenizer(models.BPE())
            made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind.endswith("before"))
            trainer = trainers.BpeTrainer
            options = {"vocab_size": 320, "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    special = list(names.values())
    made.train_from_iterator(LINES, trainer(special_tokens=special, show_progress=False, **options))
    ends = [(names[end], made.token_to_id(names[end])) for end in ("cls", "sep")]
    made.post_processor = processors.TemplateProcessing(single=f"{names['cls']} $A {names['sep']}", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=made, **{f"{which}_token": token for which, token in names.items()})


# Words: anything but half characters (which readers refuse); what is hard for one of the tokenizers comes often.
HARD = [
    *("\0", "\u200b", "\ufeff", "\u0301", "e\u0301\u0302", "\xad", "\x7f", "\u2028", "▁", "Ġ", "##", "##x", "\t", " "),
    *("😀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "שָׁלוֹם", "مرحبا", "\u202eabc", "日本語", "ﬁ", "㎏", "½", "1,234.56", "...", "-", "a b"),
    *("[SEP]", "[CLS]", "[PAD]", "[UNK]", "<s>", "</s>", "<pad>", "<unk>", "x" * 300, "日" * 150, "\u0301" * 90),
]
texts = st.one_of(
    st.sampled_from([*"abc", "Order", "date", "steel-frame"]),
    st.sampled_from(HARD),
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12),
)


@st.composite
def spans_of(draw: st.DrawFn, words: int) -> list[Span]:
    """Entities anywhere on a page of so many words."""
    found, place = [], 0
    while True:
        start = place + draw(st.integers(0, 4))
        end = start + draw(st.integers(1, 4))
        if end > words:
            return found
        found.append(Span(draw(st.sampled_from(TYPES)), start, end))
        place = end


@st.composite
def pages(draw: st.DrawFn) -> list[Document]:
    """A few documents; the upper left corner of a word's box is a number that no other word has."""
    found, number = [], 1
    for name in "abc"[: draw(st.integers(1, 3))]:
        words = draw(st.lists(texts, max_size=40))
        spans = draw(spans_of(len(words)))
        boxes, segments, segment = [], [], 0
        for _ in words:
            x, y = number % 1000, number // 1000
            boxes.append((x, y, min(1000, x + draw(st.integers(0, 300))), min(1000, y + draw(st.integers(0, 300)))))
            segment += draw(st.booleans())
            segments.append(segment)
            number += 1
        tags = tuple(to_tags(spans, len(words), draw(st.sampled_from(["BIO", "BIOES"]))))
        found.append(Document(name, tuple(words), tuple(boxes), tags, (100, 100), segments=tuple(segments)))
    return found


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int]:
    """max_length and a stride that leaves it room."""
    max_length = draw(st.one_of(st.integers(3, 12), st.integers(13, 200)))
    return max_length, draw(st.integers(0, max_length - 3))


@cache
def pieces_of(kind: str, word: str) -> list[int]:
    """Sub-words of a word by itself; the unknown token for a special one, and where none is left."""
    ids = tokenizer(kind).backend_tokenizer.encode([word], is_pretokenized=True, add_special_tokens=False).ids
    special = tokenizer(kind).all_special_ids
    return [tokenizer(kind).unk_token_id if token in special else token for token in ids or special[:1]]


def check_windows(
    kind: str,
    documents: Sequence[Document],
    windows: Sequence[Window],
    splitter: WindowSplitter,
    labels: LabelSet,
    every: bool,
) -> None:
    """All that a list of windows must hold, by a second calculation from the documents."""
    answered = Counter((window.document, word) for window in windows for _, word in window.owned_words)
    assert answered == Counter((d, w) for d, page in enumerate(documents) for w in range(len(page.words)))
    room = splitter.max_length - 2
    truth = [[labels.ids[tag] for tag in to_tags(to_spans(p.tags), len(p.words), labels.scheme)] for p in documents]
    for window in windows:
        page = documents[window.document]
        boxes = page.segment_boxes() if splitter.box_level == "segment" else page.boxes
        length = window.length
        assert 2 < length <= splitter.max_length
        assert len(window.boxes) == len(window.labels) == length
        ends = (tokenizer(kind).cls_token_id, tokenizer(kind).sep_token_id)
        assert (window.input_ids[0], window.input_ids[-1]) == ends
        assert not {*ends, tokenizer(kind).pad_token_id} & set(window.input_ids[1:-1])
        assert (window.boxes[0], window.boxes[-1]) == ((0, 0, 0, 0), (1000, 1000, 1000, 1000))
        expected = [IGNORED] * length
        for token, word in window.owned_words:
            ids = pieces_of(kind, page.words[word])[:room]
            assert window.input_ids[token : token + len(ids)] == ids
            assert window.boxes[token : token + len(ids)] == [boxes[word]] * len(ids)
            tag = labels.tags[truth[window.document][word]]
            expected[token] = labels.ids[tag]
            later = labels.ids[tag if tag == "O" else f"I-{tag[2:]}"] if every else IGNORED
            expected[token + 1 : token + len(ids)] = [later] * (len(ids) - 1)
        assert window.labels == expected
    tokens = [len(pieces_of(kind, word)[:room]) if every else 1 for page in documents for word in page.words]
    assert sum(window.labelled for window in windows) == sum(tokens)


def merged(documents: Sequence[Document], windows: Windows, labels: LabelSet) -> list[list[str]]:
    """Tags that come back when a network answers each token by the number in its box alone."""
    table = torch.zeros(1001 * 1001, dtype=torch.long)
    for page in documents:
        for box, tag in zip(page.boxes, to_tags(to_spans(page.tags), len(page.words), labels.scheme), strict=True):
            table[box[0] + 1001 * box[1]] = labels.ids[tag]

    def forward(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        numbers_BT = inputs["bbox"][..., 0] + 1001 * inputs["bbox"][..., 1]
        return torch.nn.functional.one_hot(table[numbers_BT], len(labels.tags)).float() * 9

    answers = in_document_order(
        label_words(forward, windows, Collator("layoutlm", 0, None, pinned=False), MicroBatchLimit(4), ALONE)[0],
        documents,
    )
    return [[labels.tags[answer.label] for answer in answers.of(index)] for index in range(len(documents))]


@pytest.mark.parametrize("kind", KINDS)
@drawn
@given(pages(), cuts(), st.sampled_from(["BIO", "BIOES"]), st.booleans(), st.sampled_from(["word", "segment"]))
def test_encode_then_merge_gives_back_every_word_once_with_its_own_label(
    kind: str, documents: list[Document], cut: tuple[int, int], scheme: str, every: bool, box_level: str
) -> None:
    labels = LabelSet(scheme, TYPES)
    splitter = WindowSplitter(tokenizer(kind), *cut, box_level)
    windows = splitter.split(documents, labels, every)
    check_windows(kind, documents, plain(windows), splitter, labels, every)
    by_word = windows if box_level == "word" else WindowSplitter(tokenizer(kind), *cut).split(documents, labels)
    truth = [to_tags(to_spans(page.tags), len(page.words), scheme) for page in documents]
    assert merged(documents, by_word, labels) == truth
    if scheme == "BIO" and every:
        # The labelled tokens, read in order, are the same entities as the words.
        for index, page in enumerate(documents):
            owned = sorted(
                (word, window.labels[token : token + len(pieces_of(kind, page.words[word])[: cut[0] - 2])])
                for window in plain(windows)
                if window.document == index
                for token, word in window.owned_words
            )
            tags = [labels.tags[label] for _, ids in owned for label in ids]
            assert to_tags(to_spans(tags), len(tags), "BIO") == tags
            assert [span.type for span in to_spans(tags)] == [span.type for span in to_spans(page.tags)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", [0, 10_000])
def test_a_page_without_words_and_one_with_ten_thousand(kind: str, words: int) -> None:
    texts = tuple((*HARD, *LINES[0].split())[index % (len(HARD) + 10)] for index in range(words))
    boxes = tuple((i % 1000, i // 1000, 1000, 1000) for i in range(1, words + 1))
    page = Document("long", texts, boxes, tuple(["B-A", "I-A", "O"][i % 3] for i in range(words)), (100, 100))
    labels, splitter = LabelSet("BIOES", TYPES), WindowSplitter(tokenizer(kind), 512, 128)
    windows = splitter.split([page], labels)
    check_windows(kind, [page], plain(windows), splitter, labels, False)
    assert merged([page], windows, labels) == [to_tags(to_spans(page.tags or ()), words, "BIOES")]
    assert bool(len(windows)) == bool(words)


@drawn
@given(pages(), cuts(), st.data())
def test_a_lost_or_a_foreign_answer_fails_the_run(
    documents: list[Document], cut: tuple[int, int], data: st.DataObject
) -> None:
    windows = WindowSplitter(tokenizer("BPE"), *cut).split(documents, None)
    keys = [(window.document, word) for window in plain(windows) for _, word in window.owned_words]

    def predictions(words: list[tuple[int, int]]) -> Predictions:
        columns = np.array(words, np.int32).reshape(-1, 2).T
        return Predictions(*columns, np.zeros(len(words), np.int16), np.ones(len(words), np.float32))

    assert len(in_document_order(predictions(keys), documents).labels) == len(keys)
    foreign = (len(documents), 0)
    with pytest.raises(AssertionError, match=f"0 of {len(keys)} words have no label, .* and 1 labels have no word"):
        in_document_order(predictions([*keys, foreign]), documents)
    if keys:
        index, word = data.draw(st.sampled_from(sorted(keys)))
        lost = [key for key in keys if key != (index, word)]
        for wrong, what in (
            (lost, "1 of .* have no label, 0 have"),
            ([*keys, (index, word)], "no label, 1 have several"),
        ):
            with pytest.raises(AssertionError, match=f"{what}.*: {'abc'[index]}, word {word}"):
                in_document_order(predictions(wrong), documents)


tags = st.one_of(st.just("O"), st.builds("{}-{}".format, st.sampled_from("BIES"), st.sampled_from(TYPES)))


@drawn
@given(st.lists(tags, max_size=30), st.sampled_from(["BIO", "BIOES"]))
def test_any_tag_sequence_is_entities_that_survive_either_scheme(sequence: list[str], scheme: str) -> None:
    spans, length = to_spans(sequence), len(sequence)
    # Each word that is not O is in one entity of its type, and no other word is in any.
    owner = {word: span.type for span in spans for word in range(span.start, span.end)}
    assert sum(span.end - span.start for span in spans) == len(owner)
    assert owner == {word: tag[2:] for word, tag in enumerate(sequence) if tag != "O"}
    # A B- or S- always begins one, an E- or S- always ends one.
    assert {i for i, tag in enumerate(sequence) if tag[0] in "BS"} <= {span.start for span in spans}
    assert {i + 1 for i, tag in enumerate(sequence) if tag[0] in "ES"} <= {span.end for span in spans}
    written = to_tags(spans, length, scheme)
    assert to_spans(written) == spans
    other = to_tags(to_spans(written), length, "BIO" if scheme == "BIOES" else "BIOES")
    assert to_spans(other) == spans
    assert to_tags(to_spans(other), length, scheme) == written


@drawn
@given(st.lists(tags.filter(lambda tag: "B-C" not in tag), max_size=30))
def test_a_tag_sequence_has_the_entities_that_conlleval_reads(sequence: list[str]) -> None:
    # seqeval's default reading is conlleval's; of a type with a dash it takes the last part.
    assert [(span.type, span.start, span.end - 1) for span in to_spans(sequence)] == get_entities(sequence)


NAMES = (
    *("micro avg", "macro avg", "weighted avg", "avg", "day avg", "all", "all types", "accuracy", "O", "B-", "-", "--"),
    *("B-A", "A", "_", "T0", "T1", "a b", " ", "I-O", "precision", "Ü"),
)


@st.composite
def answered(draw: st.DrawFn) -> tuple[LabelSet, list[list[str]], list[list[str]]]:
    """A label set, the true tags of a few pages, and what a model made of them: near the truth, and seldom legal."""
    kinds = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    labels = LabelSet(draw(st.sampled_from(["BIO", "BIOES"])), tuple(kinds))
    truth = draw(st.lists(st.lists(st.sampled_from(labels.tags), max_size=12), max_size=3))
    predicted = [[draw(st.sampled_from([tag, tag, *labels.tags])) for tag in page] for page in truth]
    return labels, truth, predicted


def ratio(found: int, of: int) -> float:
    return found / of if of else 0.0


@drawn
@given(answered())
def test_what_predict_writes_is_what_is_scored(case: tuple[LabelSet, list[list[str]], list[list[str]]]) -> None:
    labels, truth, predicted = case
    ids = labels.ids
    written = []
    for page in predicted:
        document = Document("d", ("x",) * len(page), ((0, 0, 1, 1),) * len(page), None, (9, 9))
        written.append(label_page(document, [WordPrediction(ids[tag], 0.5) for tag in page], labels).to_dict())
    delivered = {
        (number, entity["type"], *entity["words"]) for number, page in enumerate(written) for entity in page["entities"]
    }
    wanted = {(number, *span) for number, page in enumerate(truth) for span in to_spans(page)}

    scores = score_tags(truth, predicted, labels)
    overall, by_type = seqeval_scores(truth, predicted, labels.scheme)
    assert {key: getattr(scores, key) for key in ("precision", "recall", "f1")} == {
        key: overall[key] for key in ("precision", "recall", "f1")
    }
    assert scores.by_entity == by_type
    assert scores.counts["entities"] == len(wanted)
    assert scores.counts["predicted_entities"] == len(delivered) == sum(len(page["entities"]) for page in written)
    assert scores.precision == pytest.approx(ratio(len(wanted & delivered), len(delivered)))
    assert scores.recall == pytest.approx(ratio(len(wanted & delivered), len(wanted)))
    assert scores.f1 == pytest.approx(ratio(2 * len(wanted & delivered), len(wanted) + len(delivered)))
    assert list(scores.by_entity) == sorted({kind for _, kind, *_ in wanted | delivered})
    for kind, row in scores.by_entity.items():
        true, found = ({entity for entity in side if entity[1] == kind} for side in (wanted, delivered))
        assert row["entities"] == len(true)
        assert row["precision"] == pytest.approx(ratio(len(true & found), len(found)))
        assert row["recall"] == pytest.approx(ratio(len(true & found), len(true)))
        assert row["f1"] == pytest.approx(ratio(2 * len(true & found), len(true) + len(found)))

    # The labels of the words say the same as the entities, legally, so any reading of them gives the same scores.
    tags = [[word["label"] for word in page["words"]] for page in written]
    assert tags == [rewrite(page, labels.scheme) for page in tags]
    assert score_tags(truth, tags, labels) == scores
    for page, answers, labelled in zip(written, predicted, tags, strict=True):
        assert [Span(one["type"], *one["words"]) for one in page["entities"]] == to_spans(labelled)
        assert [tag[2:] for tag in labelled] == [tag[2:] for tag in answers]  # never another type, nor O


@drawn
@given(st.integers(0, 30).flatmap(lambda words: st.tuples(st.just(words), spans_of(words))))
def test_legal_sequences_come_back_as_they_were(case: tuple[int, list[Span]]) -> None:
    words, spans = case
    for scheme in ("BIO", "BIOES"):
        assert to_spans(to_tags(spans, words, scheme)) == spans


@drawn
@given(st.lists(st.sampled_from(TYPES), min_size=1, unique=True), st.sampled_from(["BIO", "BIOES"]), st.randoms())
def test_a_label_set_is_read_from_its_tags_in_any_order(types: list[str], scheme: str, rng: Any) -> None:
    labels = LabelSet(scheme, tuple(types))
    shuffled = list(labels.tags)
    rng.shuffle(shuffled)
    found = LabelSet.from_tags(shuffled)
    assert (found.scheme, sorted(found.types)) == (scheme, sorted(types))
    assert LabelSet.from_tags(labels.tags) == labels
    assert [labels.tags[label] for label in labels.continued] == [
        tag if tag == "O" else f"I-{tag[2:]}" for tag in labels.tags
    ]
