"""layoutner against run_seq_labeling.py's loop: the same where it means to be, both numbers where it does not.

The numbers are those of docs/run_seq_labeling/differences.md, which are read out of it.
"""

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizerFast,
)

from layoutner.corpus.batches import assign_to_ranks, collate, step_windows
from layoutner.demo.checkpoint import SIZE
from layoutner.distributed.ranks import Ranks
from layoutner.errors import DataError, SettingsError
from layoutner.inference.labeller import Labeller
from layoutner.models.parameters import decay_groups
from layoutner.objectives.evaluate import evaluate
from layoutner.pages.labels import read_labels
from layoutner.planning.batch_plan import MicroBatchLimit
from layoutner.planning.schedule import plan_schedule
from layoutner.settings.schedule import ScheduleSettings
from layoutner.settings.tree import Settings, load
from layoutner.training.plan import cut_windows
from tests.builders import old_loop
from tests.builders.processes import ROOT, launch

ALONE = Ranks(rank=0, size=1, device=torch.device("cpu"))

FAMILIES = ("bert", "roberta", "layoutlm")
LENGTH = 512
TAGS = ["O", *(f"{prefix}-{kind}" for kind in ("ANSWER", "HEADER", "QUESTION") for prefix in "BIES")]
ENTITY = {
    "ANSWER": (500, "brass wheel Feb 12 Gruber"),
    "HEADER": (50, "Order Form"),
    "QUESTION": (200, "From Due date"),
}

WORDS = [word for _, vocabulary in ENTITY.values() for word in vocabulary.split()]

# 9 windows, 2 a step: 5 steps an epoch, the last of them with one window. 10 epochs are 50 steps.
SHORT_AND_LONG = (40, 7, 150, 3, 90, 21, 340, 12, 60)
RECIPE = old_loop.Arguments(batch=2, epochs=10, lr=1e-3, weight_decay=0.1, max_grad_norm=1.5, warmup_steps=8)
# 4 forwards an update: 8 windows and then 1. The weights stay where they are, so that gradients compare.
ACCUMULATED = old_loop.Arguments(batch=2, accumulation=4, max_steps=4, lr=1e-12, max_grad_norm=float("inf"))

# What `layoutner train` does, many times in one process: a list of settings, as JSON.
TRAIN = """
import json, sys
from layoutner.runs.single import run_once
from layoutner.settings.tree import load
from layoutner.distributed.ranks import Ranks
with Ranks.join() as ranks:
    for settings in json.loads(sys.argv[1]):
        run_once(load(None, settings), ranks)
"""

PAGE = ROOT / "docs" / "run_seq_labeling" / "differences.md"
Cell = str | float
Shows = Callable[[dict[str, tuple[Cell, ...]]], None]


def sections() -> dict[str, dict[str, tuple[str, ...]]]:
    """Name of a test -> the rows of the tables in its section of the page: first cell -> the other ones."""
    found = {}
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        lines = [line for line in section.splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        # The heading of a table stands before its row of dashes.
        dashes = {index for index, row in enumerate(rows) if set(row[0]) == {"-"}}
        heads = dashes | {index - 1 for index in dashes}
        body = {row[0]: tuple(row[1:]) for index, row in enumerate(rows) if index not in heads}
        for name in re.findall(r"`(test_\w+)`", section):
            found[name] = body
    return found


def agrees(cell: str, value: Cell) -> bool:
    """A cell of the page with what was measured: "below 1e-5", a text, or a number, to its last digit."""
    if isinstance(value, str):
        return cell == value
    if cell.startswith("below "):
        return abs(value) < float(cell.removeprefix("below "))
    unit = 10.0 ** int(Decimal(cell).as_tuple().exponent)
    return value == float(cell) if unit == 1 else abs(value - float(cell)) <= unit


@pytest.fixture
def shows(request: pytest.FixtureRequest) -> Shows:
    """Compares what a test measured with the rows of its section, all of them unless the test has parameters."""
    rows = sections()[request.node.originalname]

    def compare(measured: dict[str, tuple[Cell, ...]]) -> None:
        one_of_many = hasattr(request.node, "callspec")
        assert measured.keys() <= rows.keys() if one_of_many else measured.keys() == rows.keys()
        wrong = {
            row: (rows[row], values)
            for row, values in measured.items()
            if len(rows[row]) != len(values) or not all(map(agrees, rows[row], values))
        }
        assert not wrong, "row: (the page, measured)"

    return compare


def write_pages(folder: Path, split: str, lengths: Sequence[int], seed: int = 5, pieces: int = 10**6) -> None:
    """Pages of so many words in the old text files; an empty line after every `pieces` words and every page."""
    folder.mkdir(exist_ok=True)
    rng = random.Random(seed)
    rows: list[tuple[str, str, str]] = []
    for page, length in enumerate(lengths):
        words: list[tuple[str, str, int, int]] = []
        while len(words) < length:
            kind = rng.choice(list(ENTITY))
            x, vocabulary = ENTITY[kind]
            count = min(rng.randrange(1, 5), length - len(words))
            prefixes = ["S"] if count == 1 else ["B", *"I" * (count - 2), "E"]
            y = rng.randrange(900)
            for place, prefix in enumerate(prefixes):
                tag = "O" if kind == "HEADER" and rng.random() < 0.5 and count == 1 else f"{prefix}-{kind}"
                words.append((rng.choice(vocabulary.split()), tag, x + 60 * place, y))
        for number, (word, tag, x, y) in enumerate(words):
            if number and number % pieces == 0:
                rows.append(("", "", ""))
            image = f"{word}\t0 0 1 1\t1000 1000\tpage-{page:02d}.png"
            rows.append((f"{word}\t{tag}", f"{word}\t{x} {y} {x + 50} {y + 20}", image))
        rows.append(("", "", ""))
    for index, kind in enumerate(("", "_box", "_image")):
        (folder / f"{split}{kind}.txt").write_text("\n".join(row[index] for row in rows))
    (folder / "labels.txt").write_text("\n".join(TAGS[1:]))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old") / "data"
    write_pages(folder, "train", SHORT_AND_LONG)
    return folder


# Tokenizers are written out, not trained: training breaks ties at random, and the page's numbers must come again.
# Words of five letters and more are two sub-words.


def wordpiece() -> PreTrainedTokenizerFast:
    split = [(word,) if len(word) < 5 else (word[:3], f"##{word[3:]}") for word in WORDS]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = dict.fromkeys([*special, *(piece.lower() for pieces in split for piece in pieces)])
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def byte_level() -> RobertaTokenizerFast:
    merges: list[tuple[str, str]] = []
    for start in ("Ġ", ""):
        for word in WORDS:
            letters = [*start, *word[:4]]
            merges += [("".join(letters[:place]), letters[place]) for place in range(1, len(letters))]
    merges = list(dict.fromkeys(merges))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet, *dict.fromkeys(map("".join, merges))]
    vocab = {token: index for index, token in enumerate(tokens)}
    return RobertaTokenizerFast(vocab=vocab, merges=merges, add_prefix_space=True)


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained checkpoints for 512 tokens, heads for TAGS included, so that both loops begin with the same."""
    folder = tmp_path_factory.mktemp("starts")
    labels = {"id2label": dict(enumerate(TAGS)), "label2id": {tag: index for index, tag in enumerate(TAGS)}}
    for family in FAMILIES:
        tokenizer = byte_level() if family == "roberta" else wordpiece()
        more = {"max_position_embeddings": LENGTH, "vocab_size": len(tokenizer), **SIZE, **labels}
        if family == "roberta":
            more |= {"max_position_embeddings": LENGTH + 2, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        torch.manual_seed(11)
        network = AutoModelForTokenClassification.from_config(AutoConfig.for_model(family, **more))
        network.save_pretrained(folder / family)
        tokenizer.save_pretrained(folder / family)
    return {family: folder / family for family in FAMILIES}


def network(start: Path) -> nn.Module:
    model = AutoModelForTokenClassification.from_pretrained(
        start, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, dtype=torch.float32
    )
    assert isinstance(model, nn.Module)
    return model


def windows(data: Path, start: Path, split: str = "train", second_sep: bool = False) -> list[old_loop.Features]:
    tokenizer, labels = AutoTokenizer.from_pretrained(start), old_loop.read_labels(data)
    pieces = old_loop.read_pieces(data, split)
    return [old_loop.features(piece, tokenizer, labels, LENGTH, second_sep) for piece in pieces]


def orders(count: int, batch: int, epochs: int, seed: int = 42) -> list[list[int]]:
    """layoutner's order of windows, by epoch."""
    steps = range(-(-count // batch))
    return [[i for step in steps for i in step_windows(seed, epoch, step, count, batch)] for epoch in range(epochs)]


def settings_of(start: Path, data: Path, run: Path, recipe: old_loop.Arguments, **more: object) -> dict[str, Any]:
    """Settings that mean the same as the old arguments; keywords `section__key=value` add or replace."""
    length = (
        {"schedule__max_steps": recipe.max_steps} if recipe.max_steps > 0 else {"schedule__epochs": int(recipe.epochs)}
    )
    values: dict[str, object] = {
        "model__name_or_path": start,
        "model__dropout": 0,
        "data__format": "unilm",
        "data__train": data,
        "data__scheme": "BIOES",
        "data__max_length": LENGTH,
        "batch__global_batch_size": recipe.batch * recipe.accumulation,
        "batch__micro_batch_size": recipe.batch,
        "optimizer__lr": recipe.lr,
        "optimizer__weight_decay": recipe.weight_decay,
        "optimizer__eps": recipe.eps,
        "optimizer__max_grad_norm": 0 if recipe.max_grad_norm == float("inf") else recipe.max_grad_norm,
        "schedule__warmup_steps": recipe.warmup_steps,
        **length,
        "precision__dtype": "fp32",
        "run__seed": recipe.seed,
        "run__log_every": 1,
        "run__output_dir": run,
        **more,
    }
    tree: dict[str, dict[str, str]] = defaultdict(dict)
    for name, value in values.items():
        section, key = name.split("__")
        tree[section][key] = str(value)
    return tree


@dataclass(frozen=True)
class Run:
    """What a run of layoutner left."""

    folder: Path

    @property
    def lines(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def weights(self, step: int) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "checkpoints" / f"step-{step:06d}" / "model.safetensors")

    def gradient(self, step: int) -> torch.Tensor:
        """Of the step, all parameters in one: with betas = 0,0.999 Adam's first moment is the gradient itself."""
        moments = load_file(self.folder / "checkpoints" / f"step-{step:06d}" / "optimizer.safetensors")
        found = {name.removeprefix("exp_avg/"): moment for name, moment in moments.items() if "exp_avg/" in name}
        return flat(found)


def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)]).double()


def gradient_of(model: nn.Module) -> torch.Tensor:
    return flat({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """2-norm of the difference, relative to that of `other`."""
    return float((one - other).norm() / other.norm())


@pytest.fixture(scope="module")
def runs(data: Path, starts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """layoutner's runs: RECIPE by every family, and "accumulated" and "bf16" by layoutlm."""
    folder = tmp_path_factory.mktemp("runs")
    asked = [settings_of(starts[family], data, folder / family, RECIPE) for family in FAMILIES]
    every = {"run__save_every": 1, "run__keep_checkpoints": 0, "optimizer__betas": "0,0.999"}
    asked.append(settings_of(starts["layoutlm"], data, folder / "accumulated", ACCUMULATED, **every))
    short = replace(ACCUMULATED, max_steps=1)
    asked.append(settings_of(starts["layoutlm"], data, folder / "bf16", short, precision__dtype="bf16"))
    done = launch(["python", "-c", TRAIN, json.dumps(asked)])
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: Run(folder / name) for name in (*FAMILIES, "accumulated", "bf16")}


@dataclass(frozen=True)
class Old:
    """A run of the old loop."""

    updates: list[old_loop.Update]
    model: nn.Module


def run_old(family: str, data: Path, starts: dict[str, Path], optimizer: Any = torch.optim.AdamW) -> Old:
    dataset = windows(data, starts[family])
    model = network(starts[family])
    sampler = old_loop.GivenOrder(orders(len(dataset), RECIPE.batch, int(RECIPE.epochs)))
    return Old(old_loop.train(family, model, dataset, RECIPE, sampler, optimizer), model)


@pytest.fixture(scope="module")
def old(data: Path, starts: dict[str, Path]) -> dict[str, Old]:
    """RECIPE by the old loop with torch's AdamW, in layoutner's order of windows."""
    return {family: run_old(family, data, starts) for family in FAMILIES}


def test_the_page_names_the_tests_and_they_the_page() -> None:
    named = set(sections())
    here = {name for name in globals() if name.startswith("test_")}
    assert named == here - {"test_the_page_names_the_tests_and_they_the_page"}
    assert all(rows for rows in sections().values())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loop_is_followed_step_by_step(
    family: str, data: Path, starts: dict[str, Path], runs: dict[str, Run], old: dict[str, Old], shows: Shows
) -> None:
    lines, updates = runs[family].lines, old[family].updates
    assert len(lines) == len(updates) == 50
    norms = [update.norm for update in updates]
    assert sum(norm > RECIPE.max_grad_norm for norm in norms) >= 10  # clipped
    assert sum(norm < RECIPE.max_grad_norm for norm in norms) >= 1  # and not
    assert sum(update.loss for update in updates[-5:]) < 0.9 * sum(update.loss for update in updates[:5])
    losses = [abs(line["train/loss"] / update.loss - 1) for line, update in zip(lines, updates, strict=True)]
    rates = [abs(line["train/lr"] - update.lr) for line, update in zip(lines, updates, strict=True)]
    ours, theirs = runs[family].weights(50), old[family].model.state_dict()
    assert ours.keys() == theirs.keys()
    keys = {name for name in theirs if name.endswith("attention.self.key.bias")}
    assert len(keys) == 2
    # The loss does not depend on the key biases: they add the same number to all scores of a query, which softmax
    # takes away again. Their gradient is rounding, which Adam blows up; so they are noise in both, and stay tiny ...
    assert max(float(tensors[name].abs().max()) for tensors in (ours, theirs) for name in keys) < 1e-5
    shows(
        {
            "learning rate of a step": (max(rates),),
            "loss of a step": (max(losses),),
            "gradient norm of a step": (
                max(abs(line["train/grad_norm"] / norm - 1) for line, norm in zip(lines, norms, strict=True)),
            ),
            "weights after 50 steps": (max(apart(ours[name], theirs[name]) for name in theirs.keys() - keys),),
        }
    )
    # ... and the network answers the same with either.
    batch = next(iter(DataLoader(windows(data, starts[family]), batch_size=4)))
    mixed = network(starts[family])
    answers = []
    for biases in (ours, theirs):
        mixed.load_state_dict({**ours, **{name: biases[name] for name in keys}})
        with torch.no_grad():
            answers.append(mixed(**old_loop.inputs(family, batch)).logits)
    assert float((answers[0] - answers[1]).abs().max()) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_both_decay_the_same_parameters(family: str, starts: dict[str, Path], shows: Shows) -> None:
    model = network(starts[family])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ours, theirs = (
        [{names[id(parameter)] for parameter in group["params"]} for group in groups]
        for groups in (decay_groups(model, 0.1), old_loop.groups(model, 0.1))
    )
    assert ours == theirs
    shows({family: (len(theirs[1]), len(ours[1]))})


def eps_in_effect(step: int, optimizer_class: Any) -> float:
    """What is added to the root of the corrected second moment in a step, from the length of an update."""
    gradient, lr = 1e-6, 1e-3
    weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = optimizer_class([{"params": [weight], "weight_decay": 0.0}], lr=lr, eps=1e-8)
    before = 0.0
    for _ in range(step):
        before = float(weight.detach())
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
    # With a constant gradient g both corrected moments are exact, so a step is lr g / (g + eps).
    return lr * gradient / (before - float(weight.detach())) - gradient


@pytest.mark.slow
def test_adamw_is_torchs(data: Path, starts: dict[str, Path], runs: dict[str, Run], shows: Shows) -> None:
    measured: dict[str, tuple[Cell, ...]] = {
        f"eps in effect, step {step}": (
            eps_in_effect(step, old_loop.OldAdamW),
            eps_in_effect(step, torch.optim.AdamW),
        )
        for step in (1, 50, 1000)
    }
    theirs = run_old("layoutlm", data, starts, old_loop.OldAdamW)
    ours, begun, lines = runs["layoutlm"].weights(50), network(starts["layoutlm"]).state_dict(), runs["layoutlm"].lines
    losses = [update.loss / line["train/loss"] - 1 for line, update in zip(lines, theirs.updates, strict=True)]
    way, off = flat(ours) - flat(begun), flat(dict(theirs.model.state_dict())) - flat(ours)
    measured["loss of step 50"] = (theirs.updates[-1].loss, lines[-1]["train/loss"])
    measured["loss of a step, at most"] = (max(map(abs, losses)),)
    share_of_way = float(off.norm() / way.norm())
    measured["weights after 50 steps, as a share of their way from the start"] = (share_of_way,)
    shows(measured)


@dataclass(frozen=True)
class Accumulated:
    """The old loop's updates of ACCUMULATED, in layoutner's order of windows."""

    updates: list[old_loop.Update]
    gradients: list[torch.Tensor]  # of each update
    moved: list[float]  # how far each update moved the weights


@pytest.fixture(scope="module")
def accumulated(data: Path, starts: dict[str, Path]) -> Accumulated:
    gradients, weights = [], []
    dataset, model = windows(data, starts["layoutlm"]), network(starts["layoutlm"])

    def watch(model: nn.Module) -> None:
        gradients.append(gradient_of(model))
        weights.append(flat(dict(model.state_dict())))

    sampler = old_loop.GivenOrder(orders(len(dataset), 8, 6))
    updates = old_loop.train("layoutlm", model, dataset, ACCUMULATED, sampler, watch=watch)
    weights.append(flat(dict(model.state_dict())))
    moved = [float((after - before).norm()) for before, after in pairwise(weights)]
    return Accumulated(updates, gradients, moved)


def whole_batch(dataset: Sequence[old_loop.Features], indices: Sequence[int], start: Path, size: int) -> torch.Tensor:
    """Gradient of the mean over forwards of `size` windows of their mean losses; one forward: that of the batch."""
    model = network(start)
    loader = DataLoader([dataset[index] for index in indices], batch_size=size)
    for batch in loader:
        (model(**old_loop.inputs("layoutlm", batch)).loss / len(loader)).backward()
    return gradient_of(model)


@pytest.mark.slow
def test_a_step_is_the_mean_over_its_words(
    data: Path, starts: dict[str, Path], runs: dict[str, Run], accumulated: Accumulated, shows: Shows
) -> None:
    start, run = starts["layoutlm"], runs["accumulated"]
    dataset = windows(data, start)
    first = orders(len(dataset), 8, 1)[0][:8]
    exact = whole_batch(dataset, first, start, size=8)
    batch = next(iter(DataLoader([dataset[index] for index in first], batch_size=8)))
    loss = float(network(start)(**old_loop.inputs("layoutlm", batch)).loss.detach())
    labelled = [int((dataset[index]["labels"] != old_loop.IGNORED).sum()) for index in first]
    # In the mean of means a word weighs 1 / (labelled words of its forward).
    forwards = [sum(labelled[place : place + 2]) for place in range(0, 8, 2)]
    shows(
        {
            "gradient of the first update, relative difference from that of the whole batch": (
                apart(accumulated.gradients[0], exact),
                apart(run.gradient(1), exact),
            ),
            "loss of the first update, relative difference from that of the whole batch": (
                abs(accumulated.updates[0].loss / loss - 1),
                abs(run.lines[0]["train/loss"] / loss - 1),
            ),
            "heaviest word to lightest word in the first update": (max(forwards) / min(forwards), 1),
        }
    )


@pytest.mark.slow
def test_the_rest_of_an_epoch_is_a_step_of_its_own(
    data: Path, starts: dict[str, Path], runs: dict[str, Run], accumulated: Accumulated, shows: Shows
) -> None:
    funsd = replace(ACCUMULATED, batch=16, max_steps=-1, epochs=100)
    funsd_steps, _ = old_loop.planned(-(-150 // 16), funsd)
    ours = plan_schedule(ScheduleSettings(epochs=100), 64, 150)
    few_steps, _ = old_loop.planned(-(-48 // 16), funsd)
    with pytest.raises(ZeroDivisionError):
        old_loop.planned(-(-48 // 16), replace(funsd, max_steps=10))

    start, run = starts["layoutlm"], runs["accumulated"]
    dataset = windows(data, start)
    # Both begin their second epoch with the same 8 windows; layoutner's first epoch had a step with the ninth.
    begins = orders(len(dataset), 8, 2)[1][:8]
    last = orders(len(dataset), 8, 1)[0][8:]
    assert len(last) == 1
    assert apart(run.gradient(2), whole_batch(dataset, last, start, size=1)) < 1e-5
    assert ours.steps_an_epoch is not None
    shows(
        {
            "updates per epoch: 150 windows, micro-batches of 16, 4 accumulated": (
                funsd_steps / 100,
                ours.steps_an_epoch,
            ),
            "updates in 100 epochs": (funsd_steps, ours.total),
            "windows per epoch that no update of that epoch has seen": (
                150 - funsd_steps / 100 * 64,
                150 - sum(len(step_windows(42, 0, step, 150, 64)) for step in range(ours.steps_an_epoch)),
            ),
            "updates in 100 epochs: 48 windows, micro-batches of 16, 4 accumulated": (
                few_steps,
                plan_schedule(ScheduleSettings(epochs=100), 64, 48).total,
            ),
            "gradient of the second epoch's first update, relative difference from that of its own windows": (
                apart(accumulated.gradients[1], whole_batch(dataset, begins, start, size=2)),
                apart(run.gradient(3), whole_batch(dataset, begins, start, size=8)),
            ),
        }
    )


@pytest.mark.slow
def test_max_steps_is_the_number_of_steps(runs: dict[str, Run], accumulated: Accumulated, shows: Shows) -> None:
    theirs, lines = accumulated, runs["accumulated"].lines
    assert min(theirs.moved[:-1]) > 0
    assert theirs.moved[-1] == 0
    steps, epochs = old_loop.planned(10, replace(RECIPE, max_steps=1000))
    ours = plan_schedule(ScheduleSettings(max_steps=1000), 16, 150)
    assert ours.total == steps
    assert ours.steps_an_epoch == 10
    half_steps, whole_epochs = old_loop.planned(10, replace(RECIPE, epochs=2.5))
    with pytest.raises(SettingsError, match=r"schedule.epochs = '2.5'"):
        load(None, {"schedule": {"epochs": "2.5"}})
    shows(
        {
            "updates with max_steps = 4": (len(theirs.updates), len(lines)),
            "learning rate of the last, as a share of the peak": (
                theirs.updates[-1].lr / ACCUMULATED.lr,
                lines[-1]["train/lr"] / ACCUMULATED.lr,
            ),
            "epochs begun for max_steps = 1000, 10 steps per epoch": (epochs, ours.total / ours.steps_an_epoch),
            "2.5 epochs of 10 steps: steps of the schedule": (half_steps, "refused"),
            "2.5 epochs of 10 steps: steps made": (whole_epochs * 10, "refused"),
        }
    )


@pytest.mark.slow
def test_max_grad_norm_0_does_not_clip(runs: dict[str, Run], shows: Shows) -> None:
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([1.0, 2.0, 2.0])
    nn.utils.clip_grad_norm_([weight], 0.0)
    line = runs["accumulated"].lines[0]
    shows(
        {
            "share of the gradient that is left at max_grad_norm = 0": (
                float(weight.grad.norm() / 3),
                round(float(runs["accumulated"].gradient(1).norm()) / line["train/grad_norm"], 4),
            )
        }
    )


def test_the_order_follows_from_seed_and_epoch_alone(shows: Shows) -> None:
    pages = list(range(150))

    def by_rank(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        samplers = [DistributedSampler(pages, num_replicas=4, rank=rank) for rank in range(4)]
        # Two epochs, and nobody calls set_epoch between them.
        return [[index for sampler in samplers for index in sampler] for _ in range(2)]

    def random_sampler(evaluated: bool) -> list[list[int]]:
        torch.manual_seed(42)
        loader = DataLoader(pages, shuffle=True)
        first = [int(index) for index in loader]
        if evaluated:
            list(DataLoader(pages[:4]))
        return [first, [int(index) for index in loader]]

    def steps(seed: int, epoch: int) -> list[list[int]]:
        return [step_windows(seed, epoch, step, 150, 16) for step in range(10)]

    def ours(evaluated: bool) -> list[list[int]]:
        torch.manual_seed(42)
        random.seed(42)
        steps(42, 0)
        if evaluated:
            list(DataLoader(pages[:4]))
            random.random()
        for seed in (1, 2):  # the last two orders are kept; these push them out
            steps(seed, 0)
        return steps(42, 1)

    def same(one: object, other: object) -> str:
        return "yes" if one == other else "no"

    dealt = [
        i
        for step in steps(42, 0)
        for rank in assign_to_ranks(step, [100] * 150, MicroBatchLimit(4), 4)
        for f in rank
        for i in f
    ]
    theirs, plain, evaluated = by_rank(42), random_sampler(False), random_sampler(True)
    assert plain[0] == evaluated[0]
    assert plain[0] != plain[1]
    assert set(theirs[0]) == set(dealt) == set(pages)
    shows(
        {
            "4 ranks: the second epoch in the order of the first": (
                same(*theirs),
                same(steps(42, 0), steps(42, 1)),
            ),
            "4 ranks: another seed, the same order": (
                same(theirs, by_rank(43)),
                same(steps(42, 0), steps(43, 0)),
            ),
            "4 ranks: windows seen per epoch": (len(theirs[0]), len(dealt)),
            "1 rank: an evaluation between them changes the second epoch's order": (
                same(plain[1] != evaluated[1], True),
                same(ours(False) != ours(True), True),
            ),
        }
    )


def settings_for(folder: Path, start: object, **more: object) -> Settings:
    return load(None, settings_of(start, folder, folder / "run", RECIPE, **more))


def test_a_box_off_the_page_is_said_by_file_and_word(
    data: Path, starts: dict[str, Path], tmp_path: Path, shows: Shows
) -> None:
    write_pages(tmp_path, "train", [12])
    lines = (tmp_path / "train_box.txt").read_text().splitlines()
    word = lines[3].split("\t")[0]
    lines[3] = f"{word}\t1500 20 1550 40"
    (tmp_path / "train_box.txt").write_text("\n".join(lines))
    (piece,) = old_loop.read_pieces(tmp_path, "train")
    assert piece.boxes[3] == [1500, 20, 1550, 40]
    passes = 0 <= all(piece.boxes) <= 1000  # the script's check: all(...) is a truth value, which is 0 or 1
    batch = next(iter(DataLoader(windows(tmp_path, starts["layoutlm"]))))
    with pytest.raises(IndexError, match="range") as theirs:
        network(starts["layoutlm"])(**old_loop.inputs("layoutlm", batch))
    # No model is opened: there is none.
    with pytest.raises(DataError) as ours:
        cut_windows(settings_for(tmp_path, "/nowhere"))
    assert str(ours.value).replace(str(tmp_path), "data") in PAGE.read_text(encoding="utf-8")
    shows(
        {
            "the check": ("passes" if passes else "fails", "fails"),
            "what is raised": (f"`{theirs.type.__name__}`", f"`{ours.type.__name__}`"),
        }
    )


def test_no_word_is_cut_off(starts: dict[str, Path], tmp_path: Path, shows: Shows) -> None:
    write_pages(tmp_path, "train", [700])
    (theirs,) = windows(tmp_path, starts["layoutlm"])
    _, _, by_role = cut_windows(settings_for(tmp_path, starts["layoutlm"]))
    ours = by_role["train"]
    assert max(window.length for window in ours) <= LENGTH
    shows(
        {
            "windows": (1, len(ours)),
            "words with a label": (
                int((theirs["labels"] != old_loop.IGNORED).sum()),
                len({word for window in ours for _, word in window.owned_words.tolist()}),
            ),
            "words lost": (
                700 - int((theirs["labels"] != old_loop.IGNORED).sum()),
                700 - sum(window.labelled for window in ours),
            ),
        }
    )


def test_padding_stops_at_the_longest_window(data: Path, starts: dict[str, Path], shows: Shows) -> None:
    theirs = windows(data, starts["layoutlm"])
    _, checkpoint, by_role = cut_windows(settings_for(data, starts["layoutlm"]))
    ours = by_role["train"]
    lengths = [window.length for window in ours]
    assert lengths == [int(window["attention_mask"].sum()) for window in theirs]
    computed = 0
    for step in range(5):
        step_indices = step_windows(42, 0, step, len(ours), 2)
        for micro_batch in assign_to_ranks(step_indices, lengths, MicroBatchLimit(2), 1, packed=True)[0]:
            batch = collate([ours[index] for index in micro_batch], checkpoint.tokenizer.pad_token_id, packed=True)
            computed += batch.input_ids_BT.numel()
    shows(
        {
            "tokens of its windows": (sum(int(window["attention_mask"].sum()) for window in theirs), sum(lengths)),
            "tokens that an epoch computes": (sum(window["input_ids"].numel() for window in theirs), computed),
        }
    )


def test_roberta_gets_a_space_and_one_separator(data: Path, starts: dict[str, Path], shows: Shows) -> None:
    start = starts["roberta"]
    # transformers 2.9 put no space before a word that is split alone.
    bare = AutoTokenizer.from_pretrained(start, add_prefix_space=False)
    pieces, labels = old_loop.read_pieces(data, "train"), old_loop.read_labels(data)
    theirs = [old_loop.features(piece, bare, labels, LENGTH, second_sep=True) for piece in pieces]
    _, checkpoint, by_role = cut_windows(settings_for(data, start))
    ours = by_role["train"]
    words = [word for piece in pieces for word in piece.words]
    separator = checkpoint.tokenizer.sep_token_id
    spaced = [checkpoint.tokenizer.convert_ids_to_tokens(int(w.input_ids[t])) for w in ours for t, _ in w.owned_words]
    batch = next(iter(DataLoader(theirs, batch_size=len(theirs))))
    mended = next(iter(DataLoader(windows(data, start), batch_size=len(theirs))))
    model = network(start)
    shows(
        {
            "separators at the end of a window": (
                int((theirs[0]["input_ids"] == separator).sum()),
                ours[0].input_ids.tolist().count(separator),
            ),
            "words that begin with a space": (
                sum(bare.tokenize(word)[0].startswith("Ġ") for word in words),
                sum(token.startswith("Ġ") for token in spaced),
            ),
            "loss of the untrained network": tuple(
                float(model(**old_loop.inputs("roberta", one)).loss.detach()) for one in (batch, mended)
            ),
        }
    )


def test_the_tokenizer_decides_about_capitals(data: Path, starts: dict[str, Path], shows: Shows) -> None:
    keeping = AutoTokenizer.from_pretrained(starts["layoutlm"])
    keeping.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)  # no --do_lower_case
    pieces, labels = old_loop.read_pieces(data, "train"), old_loop.read_labels(data)
    theirs = [old_loop.features(piece, keeping, labels, LENGTH) for piece in pieces]
    _, checkpoint, by_role = cut_windows(settings_for(data, starts["layoutlm"]))
    ours = by_role["train"]
    unknown = checkpoint.tokenizer.unk_token_id
    lost = sum(int((window["input_ids"] == unknown).sum()) for window in theirs)
    assert lost == sum(word != word.lower() for piece in pieces for word in piece.words)
    assert sum(len(piece.words) for piece in pieces) == sum(window.labelled for window in ours) == 723
    shows(
        {
            "words that are `[UNK]`: all with a capital": (
                lost,
                sum(window.input_ids.tolist().count(unknown) for window in ours),
            )
        }
    )


@pytest.mark.slow
def test_weights_are_saved_and_scored_as_they_were_trained(
    data: Path, starts: dict[str, Path], runs: dict[str, Run], tmp_path: Path, shows: Shows
) -> None:
    model = network(starts["layoutlm"])
    with torch.autocast("cpu", torch.bfloat16):
        old_loop.train("layoutlm", model, windows(data, starts["layoutlm"]), replace(ACCUMULATED, max_steps=1))
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    theirs, ours = tmp_path / "model.safetensors", runs["bf16"].folder / "export" / "model.safetensors"
    moments = load_file(runs["bf16"].folder / "checkpoints" / "step-000001" / "optimizer.safetensors")
    masters = {name.removeprefix("master/"): one for name, one in moments.items() if name.startswith("master/")}
    assert masters.keys() <= load_file(ours).keys()
    assert any("query" in name for name in masters)

    def bytes_each(tensors: Iterable[torch.Tensor]) -> int:
        (size,) = {tensor.element_size() for tensor in tensors}
        return size

    shows(
        {
            "bytes per weight in the saved model": tuple(
                bytes_each(load_file(file).values()) for file in (theirs, ours)
            ),
            "bytes per weight in the network that is scored": (
                bytes_each(model.parameters()),
                bytes_each(Labeller(ours.parent, ALONE).network.model.parameters()),
            ),
            "bytes per weight from which a resumed run continues": ("none", bytes_each(masters.values())),
        }
    )


def test_scores_are_of_words_and_whole_pages(data: Path, starts: dict[str, Path], tmp_path: Path, shows: Shows) -> None:
    # Pages in pieces of 30 words, as the preprocessing cut them after 510 sub-words, wherever that was.
    write_pages(tmp_path, "test", [70, 12, 100, 4], seed=6, pieces=30)
    (tmp_path / "labels.txt").write_text("\n".join(TAGS[1:]))
    pieces, labels = windows(tmp_path, starts["layoutlm"], "test"), old_loop.read_labels(tmp_path)
    # The same "network" for both: a sub-word gets the tag that it most often has in the training pages.
    seen: dict[int, Counter[int]] = defaultdict(Counter)
    for window in windows(data, starts["layoutlm"]):
        for token, label in zip(window["input_ids"].tolist(), window["labels"].tolist(), strict=True):
            if label != old_loop.IGNORED:
                seen[token][label] += 1
    logits_VL = torch.zeros(10_000, len(labels))
    for token, tags in seen.items():
        logits_VL[token, tags.most_common(1)[0][0]] = 3.0

    theirs, one = (old_loop.evaluate(lambda ids: logits_VL[ids], pieces, labels, batch) for batch in (3, 1))
    corpus, checkpoint, by_role = cut_windows(settings_for(data, starts["layoutlm"], data__test=tmp_path))

    def forward(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return logits_VL[inputs["input_ids"]]

    assert corpus.labels.tags == labels
    parts = [(corpus.test, by_role["test"])]
    collator = checkpoint.collator(torch.device("cpu"))
    limits = MicroBatchLimit(3), MicroBatchLimit(1)
    ours, again = (evaluate(forward, parts, corpus.labels, "test", "word", collator, n, ALONE) for n in limits)
    assert (theirs.f1, ours.f1) == (one.f1, again.f1)
    shows(
        {
            "what is scored": (f"{len(pieces)} pieces", f"{ours.counts['documents']} pages"),
            "entities": (theirs.entities, ours.counts["entities"]),
            "F1": (theirs.f1, ours.f1),
            "loss, micro-batches of 3 windows": (theirs.loss, ours.loss),
            "loss, micro-batches of 1 window": (one.loss, again.loss),
        }
    )


def test_o_has_the_id_0(tmp_path: Path, shows: Shows) -> None:
    # As `sort | uniq` of the training labels leaves them.
    (tmp_path / "labels.txt").write_text("\n".join(sorted(TAGS)))
    theirs, ours = old_loop.read_labels(tmp_path), read_labels(tmp_path / "labels.txt", "BIOES").tags
    assert sorted(theirs) == sorted(ours)
    shows({"id of O": (theirs.index("O"), ours.index("O")), "tags": (len(theirs), len(ours))})
