"""What run_seq_labeling.py computes, written anew in plain PyTorch and in fp32: the oracle that layoutner is held to.

Nothing of layoutner is imported here, so that no mistake of its can stand on both sides of a comparison. Defects of
the script are kept on purpose and marked "defect".
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from torch import nn
from torch.utils.data import DataLoader, Sampler

IGNORED = -100

Features = dict[str, torch.Tensor]  # of one piece, or stacked of a micro-batch


# The data: {split}.txt and {split}_box.txt, pieces parted by empty lines, each piece one window.


@dataclass
class Piece:
    """Consecutive words of one page, as the preprocessing cut them."""

    words: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    boxes: list[list[int]] = field(default_factory=list)


def read_pieces(folder: Path, split: str) -> list[Piece]:
    pieces = [Piece()]
    lines, box_lines = ((folder / f"{split}{kind}.txt").read_text().splitlines() for kind in ("", "_box"))
    for line, box_line in zip(lines, box_lines, strict=True):
        if not line.strip():
            pieces.append(Piece())
            continue
        word, tag = line.split("\t")
        pieces[-1].words.append(word)
        pieces[-1].tags.append(tag)
        pieces[-1].boxes.append([int(side) for side in box_line.split("\t")[1].split()])
    return [piece for piece in pieces if piece.words]


def read_labels(folder: Path) -> list[str]:
    """Id -> tag, in the order of the file, "O" before them where it is missing."""
    labels = (folder / "labels.txt").read_text().splitlines()
    return labels if "O" in labels else ["O", *labels]


def features(piece: Piece, tokenizer: Any, labels: list[str], length: int, second_sep: bool = False) -> Features:
    """One window of exactly `length` tokens. Each word is split alone; its first sub-word carries the label.

    Args:
        second_sep: close with two separators, as the script does for RoBERTa.
    """
    ids, label_ids, boxes = [], [], []
    for word, tag, box in zip(piece.words, piece.tags, piece.boxes, strict=True):
        sub_words = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word))
        ids += sub_words
        label_ids += [labels.index(tag)] + [IGNORED] * (len(sub_words) - 1)
        boxes += [box] * len(sub_words)
    closing = 2 if second_sep else 1
    room = length - 1 - closing
    # Defect: what does not fit is cut off, and its words have neither loss nor prediction.
    ids = [tokenizer.cls_token_id, *ids[:room], *[tokenizer.sep_token_id] * closing]
    label_ids = [IGNORED, *label_ids[:room], *[IGNORED] * closing]
    boxes = [[0] * 4, *boxes[:room], *[[1000] * 4] * closing]
    padding = length - len(ids)
    return {
        "input_ids": torch.tensor(ids + [tokenizer.pad_token_id] * padding),
        "attention_mask": torch.tensor([1] * len(ids) + [0] * padding),
        "token_type_ids": torch.zeros(length, dtype=torch.long),
        "labels": torch.tensor(label_ids + [IGNORED] * padding),
        "bbox": torch.tensor(boxes + [[0] * 4] * padding),
    }


def inputs(family: str, batch: Features) -> Features:
    """What the network is called with: boxes are LayoutLM's alone, and RoBERTa has no segment ids."""
    without = {"bert": {"bbox"}, "roberta": {"bbox", "token_type_ids"}, "layoutlm": set[str]()}[family]
    return {name: tensor for name, tensor in batch.items() if name not in without}


# The arithmetic of a run.


@dataclass(frozen=True)
class Arguments:
    """The options of the script that its loop reads, with its defaults."""

    batch: int = 8  # per_gpu_train_batch_size, on one GPU
    accumulation: int = 1  # gradient_accumulation_steps
    epochs: float = 3.0  # num_train_epochs
    max_steps: int = -1
    lr: float = 5e-5
    weight_decay: float = 0.0
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    warmup_steps: int = 0
    seed: int = 42


def planned(micro_batches: int, arguments: Arguments) -> tuple[float, int]:
    """(optimizer steps that the schedule is made for, epochs), for a loader of so many micro-batches."""
    an_epoch = micro_batches // arguments.accumulation  # defect: rounded down, and 0 is possible
    if arguments.max_steps > 0:
        return arguments.max_steps, arguments.max_steps // an_epoch + 1
    return an_epoch * arguments.epochs, int(arguments.epochs)


def lr_factor(step: int, warmup: int, total: float) -> float:
    """Share of the peak learning rate in optimizer step `step`, from 0: linear up, then linear down to 0 at `total`."""
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (total - step) / max(1, total - warmup))


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    no_decay = ["bias", "LayerNorm.weight"]
    free = {name for name, _ in model.named_parameters() if any(part in name for part in no_decay)}
    return [
        {"params": [p for name, p in model.named_parameters() if name not in free], "weight_decay": weight_decay},
        {"params": [p for name, p in model.named_parameters() if name in free], "weight_decay": 0.0},
    ]


class OldAdamW(torch.optim.Optimizer):
    """transformers 2.9's AdamW, which differs from torch.optim.AdamW in two places.

    eps is added to the root of the second moment before its bias is corrected, so in step t it counts as
    eps / sqrt(1 - b2^t): 32 eps in the first step. And the weights are decayed after the update, not before it.
    """

    def __init__(self, params: Any, lr: float, eps: float) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        b1, b2 = 0.9, 0.999
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                t = state["t"] = state.get("t", 0) + 1
                m = state["m"] = b1 * state.get("m", 0) + (1 - b1) * weight.grad
                v = state["v"] = b2 * state.get("v", 0) + (1 - b2) * weight.grad**2
                rate = group["lr"] * (1 - b2**t) ** 0.5 / (1 - b1**t)
                weight -= rate * m / (v.sqrt() + group["eps"])
                weight -= group["lr"] * group["weight_decay"] * weight


# The loop.


class GivenOrder(Sampler[int]):
    """An order of windows for each epoch, instead of RandomSampler's."""

    def __init__(self, epochs: Sequence[Sequence[int]]) -> None:
        self._epochs = list(epochs)
        self._next = iter(self._epochs)

    def __iter__(self) -> Iterator[int]:
        return iter(next(self._next))

    def __len__(self) -> int:
        return len(self._epochs[0])


@dataclass(frozen=True)
class Update:
    """One optimizer step."""

    loss: float  # mean over the micro-batches since the last update, of their mean losses
    lr: float
    norm: float  # of the gradient, before clipping


def train(
    family: str,
    model: nn.Module,
    dataset: Sequence[Features],
    arguments: Arguments,
    sampler: Sampler[int] | None = None,
    optimizer_class: Any = torch.optim.AdamW,
    watch: Callable[[nn.Module], None] = lambda model: None,
) -> list[Update]:
    """Train `model` in place.

    Args:
        sampler: the order of windows; None is RandomSampler, which draws from torch's global generator.
        watch: called before each update, when the gradient is whole and not yet clipped.
    """
    order: Any = {"shuffle": True} if sampler is None else {"sampler": sampler}
    loader = DataLoader(dataset, batch_size=arguments.batch, **order)
    total, epochs = planned(len(loader), arguments)
    optimizer = optimizer_class(groups(model, arguments.weight_decay), lr=arguments.lr, eps=arguments.eps)
    updates: list[Update] = []
    losses: list[float] = []
    model.zero_grad()
    torch.manual_seed(arguments.seed)
    for _ in range(epochs):
        for step, batch in enumerate(loader):
            model.train()
            loss = model(**inputs(family, batch)).loss  # mean over the labelled tokens of the micro-batch
            (loss / arguments.accumulation).backward()
            losses.append(float(loss.detach()))
            # Defect: the count begins anew with each epoch, and .grad does not.
            if (step + 1) % arguments.accumulation == 0:
                watch(model)
                norm = float(nn.utils.clip_grad_norm_(model.parameters(), arguments.max_grad_norm))
                for group in optimizer.param_groups:
                    group["lr"] = arguments.lr * lr_factor(len(updates), arguments.warmup_steps, total)
                optimizer.step()
                updates.append(Update(sum(losses) / len(losses), optimizer.param_groups[0]["lr"], norm))
                losses = []
                model.zero_grad()
            # Defect: ends one step late, when the learning rate is 0.
            if 0 < arguments.max_steps < len(updates):
                return updates
    return updates


@dataclass(frozen=True)
class Scores:
    """Of one evaluation."""

    loss: float  # mean of the micro-batches' mean losses
    f1: float  # by seqeval's default reading of each window's tags, in which what breaks the scheme is entities too
    entities: int  # that the truth is said to hold


@torch.no_grad()
def evaluate(
    forward: Callable[[torch.Tensor], torch.Tensor], dataset: Sequence[Features], labels: list[str], batch: int
) -> Scores:
    """Score windows one by one, whatever pages they are of.

    Args:
        forward: input ids -> logits.
    """
    losses, truth, predicted = [], [], []
    for one in DataLoader(dataset, batch_size=batch):
        logits = forward(one["input_ids"])
        losses.append(float(nn.functional.cross_entropy(logits.flatten(0, 1), one["labels"].flatten())))
        for row, answers in zip(one["labels"], logits.argmax(-1), strict=True):
            read = row != IGNORED
            truth.append([labels[label] for label in row[read].tolist()])
            predicted.append([labels[label] for label in answers[read].tolist()])
    entities = sum(len(get_entities(tags)) for tags in truth)
    return Scores(sum(losses) / len(losses), float(f1_score(truth, predicted)), entities)
