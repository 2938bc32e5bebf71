"""Windows as flat arrays hold what lists of Python numbers held, and give the same batches and losses."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from layoutner.corpus import batches
from layoutner.corpus.splitter import WindowSplitter
from layoutner.corpus.windows import IGNORED, Window, Windows
from layoutner.distributed.ranks import Ranks
from layoutner.models.collator import Collator
from layoutner.objectives.evaluate import label_words
from layoutner.objectives.loss import make_loss, summed_cross_entropy
from layoutner.pages.labels import LabelSet
from layoutner.planning.batch_plan import MicroBatchLimit
from layoutner.settings.tree import LossSettings
from tests.builders import list_windows
from tests.builders.windows import LABELS, page, pages, plain

ALONE = Ranks(rank=0, size=1, device=torch.device("cpu"))


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize(
    ("max_length", "stride", "level"), [(32, 0, "word"), (32, 8, "segment"), (8, 2, "word"), (256, 40, "word")]
)
@pytest.mark.parametrize("all_subwords", [False, True])
@pytest.mark.parametrize("labels", [None, LABELS, LabelSet("BIOES", ("B", "A"))], ids=["none", "BIO", "BIOES"])
def test_arrays_hold_what_lists_held(
    family: str,
    max_length: int,
    stride: int,
    level: str,
    all_subwords: bool,
    labels: LabelSet | None,
    checkpoints: dict[str, Path],
) -> None:
    splitter = WindowSplitter(AutoTokenizer.from_pretrained(checkpoints[family]), max_length, stride, level)
    windows = splitter.split(pages(), labels, all_subwords)
    expected = list_windows.split(splitter, pages(), labels, all_subwords)
    assert plain(windows) == expected
    assert windows.lengths.tolist() == [len(window.input_ids) for window in expected]
    assert windows.documents.tolist() == [window.document for window in expected]
    labelled = [len(window.labels) - list(window.labels).count(IGNORED) for window in expected]
    assert windows.labelled.tolist() == labelled == [window.labelled for window in windows]
    assert (sum(labelled) > 100) == (labels is not None)
    assert windows.tokens == sum(windows.lengths.tolist())


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_batches_and_losses_are_bit_for_bit_those_of_lists(weights: str, checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    splitter = WindowSplitter(tokenizer, 32, 8)
    documents = [page(random.Random(seed), 20 + seed, f"{seed}.png") for seed in range(12)]
    windows = splitter.split(documents, LABELS)
    lists = list_windows.split(splitter, documents, LABELS)
    loss = make_loss(LossSettings(class_weights=weights), windows, len(LABELS.tags))
    torch.manual_seed(0)
    table_VL = torch.randn(len(tokenizer), len(LABELS.tags))
    for step in range(4):
        indices = batches.step_windows(7, 0, step, len(windows), 8)
        counts = [[list(lists[index].labels).count(label) for index in indices] for label in range(len(LABELS.tags))]
        one = [1.0] * len(counts) if loss.weights is None else loss.weights
        expected_weight = sum(weight * sum(count) for weight, count in zip(one, counts, strict=True))
        assert loss.total_weight(windows, indices) == expected_weight > 0
        for micro_batch in batches.assign_to_ranks(indices, windows.lengths, MicroBatchLimit(3), 1)[0]:
            batch = batches.collate([windows[index] for index in micro_batch], tokenizer.pad_token_id)
            expected = list_windows.collate([lists[index] for index in micro_batch], tokenizer.pad_token_id)
            for name, theirs in expected.items():
                own = getattr(batch, name)
                assert own.dtype == theirs.dtype
                assert torch.equal(own, theirs)
            assert batch.images == tuple(documents[lists[index].document].image for index in micro_batch)
            sums = [
                loss.summed(table_VL[ids_BT], labels_BT)
                for ids_BT, labels_BT in (
                    (batch.input_ids_BT, batch.labels_BT),
                    (expected["input_ids_BT"], expected["labels_BT"]),
                )
            ]
            assert torch.equal(*sums)
            packed = batches.collate([windows[index] for index in micro_batch], tokenizer.pad_token_id, packed=True)
            of_lists = batches.collate([lists[index] for index in micro_batch], tokenizer.pad_token_id, packed=True)
            for name in expected:
                assert torch.equal(getattr(packed, name), getattr(of_lists, name))


def test_predictions_are_bit_for_bit_those_of_one_window_at_a_time(checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    splitter = WindowSplitter(tokenizer, 32, 8)
    windows, lists = splitter.split(pages(), LABELS), list_windows.split(splitter, pages(), LABELS)
    torch.manual_seed(0)
    table_VL = torch.randn(len(tokenizer), len(LABELS.tags))
    pad = tokenizer.pad_token_id
    collator = Collator("lilt", pad, None, pinned=False)  # a family of padded rows
    found, loss = label_words(
        lambda inputs: table_VL[inputs["input_ids"]], windows, collator, MicroBatchLimit(3), ALONE
    )
    answers = {}
    for window in lists:
        logits_TL = table_VL[torch.tensor(window.input_ids)]
        probabilities, labels = logits_TL[[token for token, _ in window.owned_words]].softmax(-1).max(-1)
        for (_, word), label, probability in zip(window.owned_words, labels, probabilities, strict=True):
            answers[window.document, word] = (int(label), float(probability))
    columns = (found.labels.tolist(), found.probabilities.tolist())
    keys = zip(found.documents.tolist(), found.words.tolist(), strict=True)
    assert dict(zip(keys, zip(*columns, strict=True), strict=True)) == answers
    assert len(found.labels) == len(answers) == 150 + 1 + 37 + 9
    (dealt,) = batches.assign_to_ranks(range(len(lists)), windows.lengths, MicroBatchLimit(3), 1)
    parts = [list_windows.collate([lists[index] for index in one], pad) for one in dealt]
    assert loss == sum(float(summed_cross_entropy(table_VL[p["input_ids_BT"]], p["labels_BT"])) for p in parts)


def test_no_windows_are_no_windows() -> None:
    windows = Windows([])
    assert (len(windows), windows.tokens, windows.label_counts(3), list(windows)) == (0, 0, [0, 0, 0], [])
    with pytest.raises(IndexError):
        windows[0]


def some(**changes: object) -> Windows:
    first = Window(0, [2, 7, 3], [(0, 0, 0, 0), (1, 2, 3, 4), (9, 9, 9, 9)], [IGNORED, 1, IGNORED], [(1, 0)])
    second = replace(first, **{"input_ids": [2, 8, 3], **changes})
    return Windows([first, second])


TAGS = ["O", "B-A", "I-A"]


@pytest.mark.parametrize(
    "change",
    [
        {"document": 1},
        {"labels": [IGNORED, 2, IGNORED]},
        {"labels": [IGNORED, 1, 0]},
        {"boxes": [(0, 0, 0, 0), (1, 2, 4, 3), (9, 9, 9, 9)]},
        {"owned_words": [(1, 1)]},
        {"owned_words": []},
        {"input_ids": [2, 9, 3]},
    ],
    ids=str,
)
def test_whatever_differs_changes_the_digest(change: dict[str, object]) -> None:
    assert some(**change).digest(TAGS) != some().digest(TAGS) == some().digest(TAGS)
    assert some().digest(["O", "B-B", "I-B"]) != some().digest(TAGS)


def test_a_digest_is_of_tags_whatever_their_ids() -> None:
    renumbered = Windows([replace(window, labels=np.where(window.labels == 1, 3, window.labels)) for window in some()])
    assert renumbered.digest(["O", "B-0", "I-0", "B-A", "I-A"]) == some().digest(TAGS)


def test_labels_are_counted_in_all_or_in_some_windows() -> None:
    windows = some(labels=[0, 2, 2])
    assert windows.label_counts(4) == [1, 1, 2, 0]
    assert windows.label_counts(4, [1, 1]) == [2, 0, 4, 0]
    assert windows[-1].labels.tolist() == windows[1:2][0].labels.tolist() == [0, 2, 2]
