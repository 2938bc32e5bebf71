"""How far large batches carry: steps and windows to a fixed dev score, by batch size, optimizer and learning rate.

    python benchmarks/large_batch.py OUT [--batches 16 32 64 128 256 512] [--seeds 5] [--epochs 8] [--jobs 2]
    python benchmarks/large_batch.py OUT --receipts FOLDER --model MODEL [--seeds 3] [--epochs 6]

The first task is made here. Each page has one of many layouts, which its title names; a few layouts are frequent, most
are rare. The layout decides which field lies where, and the words of the fields say nothing. Some labels are wrong, on
dev pages too, so no model is perfect. The network is a LayoutLM of two layers of 64. It is pretrained here on other
pages, whose layouts and fields have other names, so that it fine-tunes as pretrained networks do.

The second task is a folder of receipts in SROIE's format, every fifth of them for dev, in windows of 128 tokens. The
network has the same size. It is untrained but for its word embeddings: those of a text model (MODEL, a folder of BERT's
family), reduced to 64 by principal components.

Four arms: AdamW with the learning rate that is best at the smallest batch, the same with the square root rule
(optimizer.scale_lr = sqrt), and AdamW and LAMB with a learning rate tuned for each batch. Tuning doubles and halves the
learning rate, with one seed, until the best has been passed on both sides. Then every arm is trained with other seeds.
Everything is chosen by the loss on the dev pages, and all runs have the same number of epochs.

Every run is kept as one line of OUT/runs.jsonl; a second call goes on from there. OUT/report.md has the tables,
f1.svg and windows.svg the figures, and OUT/network the network.
"""

import argparse
import json
import logging
import math
import multiprocessing
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import layoutner
from layoutner.console.arguments import quiet
from layoutner.files.atomic import atomic_folder
from layoutner.reports.charts import Mark, NamedLine, chart
from layoutner.sweeps.results import half_width

KINDS = ("name", "number", "date", "sum", "place", "code", "phone", "note")
CELLS = [(100 + 300 * column, 150 + 200 * row) for row in range(4) for column in range(3)]
WORDS = [f"{first}{last}" for first in ("ba", "ko", "mi", "ru", "te") for last in ("lan", "nor", "sik", "ver", "dut")]
EMBEDDING_SIZE = 0.05  # standard deviation of the word embeddings from a text model
WRONG = 0.04  # share of the entities with a wrong label
PAGES, DEV_PAGES = 4096, 512
OTHER_LAYOUTS = 64  # of the pages for pretraining
LENGTH = 128  # tokens of the longest window; a page has fewer
TUNING_SEED, FIRST_SEED = 1, 11
WORST = 1e9  # loss of a run that diverged
EVALUATED = 1024  # windows between two evaluations
NOISE = "gradient/noise_scale_windows"
STATISTICS_EVERY = 8  # optimizer steps
# Where tuning begins at the smallest batch, and the ratio of two learning rates next to each other.
START = {"adamw": 8e-3, "lamb": 8e-3}
FACTOR, FARTHEST = 2.0, 10
ARMS = {
    "adamw": "AdamW, one learning rate",
    "adamw-sqrt": "AdamW, square root rule",
    "adamw-tuned": "AdamW, tuned at each batch",
    "lamb-tuned": "LAMB, tuned at each batch",
}
# The dev loss and F1 that steps are counted to, relative to the tuned AdamW at the smallest batch.
LOSS_TARGET, F1_TARGET = 1.5, 0.85


@dataclass(frozen=True)
class Case:
    """What distinguishes two runs."""

    optimizer: str
    batch: int
    lr: float
    seed: int
    measured: bool = False  # with the noise scale of its gradient


@dataclass(frozen=True)
class Task:
    """What all runs share: the network that they begin with, the data section of their settings, and sizes."""

    network: Path
    data: dict[str, str]
    sizes: dict[str, int]  # among them the epochs


class Runs:
    """All runs that there are, in a file of one line per run, after a line that says what the task was."""

    def __init__(self, file: Path, sizes: dict[str, int], start: Callable[[Case], dict[str, Any]]) -> None:
        self._file, self._start, self._lock = file, start, threading.Lock()
        if not file.exists():
            file.write_text(json.dumps(sizes) + "\n", encoding="utf-8")
        first, *lines = file.read_text(encoding="utf-8").splitlines()
        self.task = ", ".join(f"{name} {value}" for name, value in sizes.items()).replace("_", " ")
        if json.loads(first) != sizes:
            sys.exit(f"{file} holds runs of another task, {first}: give another OUT")
        if lines and not lines[-1].endswith("}"):  # a call that was killed left it half written
            lines.pop()
            file.write_text("".join(f"{line}\n" for line in [first, *lines]), encoding="utf-8")
        rows = [json.loads(line) for line in lines]
        self.rows = {Case(**{key: row[key] for key in Case.__dataclass_fields__ if key in row}): row for row in rows}

    def of(self, case: Case) -> dict[str, Any]:
        """The run of a case, which is trained if there is none."""
        if case not in self.rows:
            row = {**asdict(case), **self._start(case)}
            with self._lock:
                self.rows[case] = row
                with self._file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")
            print(f"{case}: {row['outcome']}, F1 {row['f1']:.4f}, loss {row['loss']:.4f}", flush=True)
        return self.rows[case]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--layouts", type=int, default=400)
    parser.add_argument("--pages", type=int, default=PAGES, help="training pages")
    parser.add_argument("--dev-pages", type=int, default=DEV_PAGES)
    parser.add_argument("--receipts", type=Path, help="SROIE's folder with box/ and entities/, instead of made pages")
    parser.add_argument("--model", type=Path, help="text model with the word embeddings for the receipts")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, on one thread each")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    one_thread()
    with tempfile.TemporaryDirectory() as folder:
        task = (made_task if options.receipts is None else receipts_task)(Path(folder), options)
        # Each process trains a few runs and ends, so that nothing piles up.
        workers = ProcessPoolExecutor(
            options.jobs, multiprocessing.get_context("spawn"), initializer=one_thread, max_tasks_per_child=20
        )
        with workers, ThreadPoolExecutor(options.jobs) as threads:
            runs = Runs(
                options.out / "runs.jsonl",
                task.sizes,
                lambda case: workers.submit(train, case, task).result(),
            )
            arms = tuned_arms(runs, options.batches, threads)
            cases = [
                Case(name.partition("-")[0], batch, lr, FIRST_SEED + seed)
                for seed in range(options.seeds)
                for name, lrs in arms.items()
                for batch, lr in lrs.items()
            ]
            list(threads.map(runs.of, dict.fromkeys(cases)))
            first = min(options.batches)
            measured = runs.of(Case("adamw", first, arms["adamw"][first], TUNING_SEED, measured=True))
    report(options, arms, runs, measured)


def one_thread() -> None:
    """Prepare a process that trains: runs at the same time share the processors."""
    os.environ["OMP_NUM_THREADS"] = "1"
    quiet()
    import torch

    torch.set_num_threads(1)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


def made_task(folder: Path, options: argparse.Namespace) -> Task:
    """Pages that are made, and a network pretrained on others, unless a call before left it."""
    sizes = {name: vars(options)[name] for name in ("pages", "dev_pages", "layouts", "epochs")}
    names = make_pages(folder, "layout", KINDS, options.layouts, options.pages, options.dev_pages)
    network = options.out / "network"
    if not network.exists():
        others = folder / "others"
        kinds = [f"other-{kind}" for kind in KINDS]
        other_names = make_pages(others, "other", kinds, OTHER_LAYOUTS, options.pages, options.dev_pages)
        tokenizer = make_tokenizer([*names, *other_names, *WORDS])
        tokenizer.save_pretrained(others / "untrained")
        make_network(len(tokenizer)).save_pretrained(others / "untrained")
        before = Task(others / "untrained", data_of(others), sizes)
        settings = settings_of(Case("adamw", 16, START["adamw"], TUNING_SEED), before, others / "run")
        with atomic_folder(network) as made:
            shutil.copytree(layoutner.train(settings).model_dir, made, dirs_exist_ok=True)
    return Task(network, data_of(folder), sizes)


def receipts_task(folder: Path, options: argparse.Namespace) -> Task:
    """Real receipts, and a network that knows the words of a text model."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    files = sorted((options.receipts / "box").iterdir())
    for number, file in enumerate(files):
        for part in ("box", "entities"):
            target = folder / ("train" if number % 5 else "eval") / part
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(options.receipts / part / file.name, target)
    shutil.copy(options.receipts / "page_sizes.tsv", folder)
    network = options.out / "network"
    if not network.exists():
        words = AutoModel.from_pretrained(options.model).embeddings.word_embeddings.weight.detach()
        model = make_network(len(words))
        centred = words - words.mean(0)
        _, _, directions = torch.linalg.svd(centred, full_matrices=False)
        reduced = centred @ directions[: model.config.hidden_size].T
        model.layoutlm.embeddings.word_embeddings.weight.data = EMBEDDING_SIZE * reduced / reduced.std()
        with atomic_folder(network) as made:
            AutoTokenizer.from_pretrained(options.model).save_pretrained(made)
            model.save_pretrained(made)
    data = {"format": "sroie", "train": str(folder / "train"), "eval": str(folder / "eval")}
    return Task(network, data, {"receipts": len(files), "epochs": options.epochs})


def make_pages(folder: Path, prefix: str, kinds: Sequence[str], layouts: int, pages: int, dev_pages: int) -> list[str]:
    """Write pages as train.jsonl and eval.jsonl, and return the names of their layouts."""
    folder.mkdir(exist_ok=True)
    rng = random.Random(prefix)
    names = [f"{prefix}{number}" for number in range(layouts)]
    fields = {name: dict(zip(rng.sample(CELLS, len(kinds)), kinds, strict=True)) for name in names}
    for role, count in (("train", pages), ("eval", dev_pages)):
        lines = [json.dumps(page(f"{role}-{number}", fields, rng)) for number in range(count)]
        (folder / f"{role}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return names


def data_of(folder: Path) -> dict[str, str]:
    """The data section of the settings for pages that were made."""
    return {"format": "jsonl", "train": str(folder / "train.jsonl"), "eval": str(folder / "eval.jsonl")}


def make_tokenizer(words: Sequence[str]) -> Any:
    """A tokenizer that knows each word as a whole."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from layoutner.demo.checkpoint import SPECIAL

    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LENGTH, **names)


def make_network(vocabulary: int) -> Any:
    """An untrained LayoutLM; the same in every call."""
    import torch
    from transformers import LayoutLMConfig, LayoutLMForTokenClassification

    from layoutner.demo.checkpoint import SIZE
    from layoutner.models.layout_tables import init_layout_tables

    torch.manual_seed(0)
    sizes = {**SIZE, "vocab_size": vocabulary, "max_position_embeddings": LENGTH}
    model = LayoutLMForTokenClassification(LayoutLMConfig(**sizes))
    init_layout_tables(model.layoutlm.embeddings, scale=2.0)
    return model


def page(name: str, fields: dict[str, dict[tuple[int, int], str]], rng: random.Random) -> dict[str, Any]:
    """One page: its title, and one or two words in every cell, in any order."""
    layout = rng.choices(list(fields), [1 / (number + 5) for number in range(len(fields))])[0]
    entities = [[{"text": layout, "box": [400, 40, 600, 60], "label": "O"}]]
    for x, y in CELLS:
        kind = fields[layout].get((x, y))
        if kind is not None and rng.random() < WRONG:
            kind = rng.choice(list(fields[layout].values()))
        left, top = x + rng.randrange(-30, 31), y + rng.randrange(-30, 31)
        entities.append(
            [
                {
                    "text": rng.choice(WORDS),
                    "box": [left + 90 * number, top, left + 90 * number + 80, top + 20],
                    "label": "O" if kind is None else f"{'I' if number else 'B'}-{kind}",
                }
                for number in range(rng.randrange(1, 3))
            ]
        )
    rng.shuffle(entities)
    return {"document": name, "page_size": [1000, 1000], "words": [word for entity in entities for word in entity]}


def settings_of(case: Case, task: Task, run: Path) -> layoutner.Settings:
    """The settings of a run into a folder."""
    return layoutner.load_settings(
        None,
        {
            "model": {"name_or_path": str(task.network), "dropout": 0.0},
            "data": {**task.data, "max_length": LENGTH, "stride": 0},
            "batch": {"global_batch_size": case.batch, "micro_batch_size": min(case.batch, 64)},
            "optimizer": {"name": case.optimizer, "lr": case.lr, "weight_decay": 0.01},
            "schedule": {"epochs": task.sizes["epochs"], "warmup_ratio": 0.1},
            "precision": {"dtype": "fp32"},
            "run": {"output_dir": str(run), "seed": case.seed, "log_every": 0, "save_every": 0}
            | {"eval_every": max(1, EVALUATED // case.batch), "device": "cpu"}
            | {"gradient_statistics_every": STATISTICS_EVERY if case.measured else 0},
        },
    )


def train(case: Case, task: Task) -> dict[str, Any]:
    """Train one run, and return its best dev scores and its curve: (step, dev loss, dev F1).

    A measured run also has its noise scales: (step, windows).
    """
    begin = time.perf_counter()
    folder = Path(tempfile.mkdtemp())
    settings = settings_of(case, task, folder / "run")
    try:
        layoutner.train(settings)
        outcome = "finished"
    except layoutner.TrainingDiverged:
        outcome = "diverged"
    file = folder / "run" / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    # A loss that is not finite is null.
    curve = [
        [one["step"], WORST if one["eval/loss"] is None else round(one["eval/loss"], 5), round(one["eval/f1"], 5)]
        for one in lines
        if "eval/f1" in one
    ]
    noise = [[one["step"], one[NOISE]] for one in lines if one.get(NOISE) is not None]
    shutil.rmtree(folder)
    return {
        "outcome": outcome,
        "f1": max((f1 for _, _, f1 in curve), default=0.0) if outcome == "finished" else 0.0,
        "loss": min((loss for _, loss, _ in curve), default=WORST) if outcome == "finished" else WORST,
        "seconds": round(time.perf_counter() - begin, 1),
        "curve": curve,
        **({"noise": noise} if case.measured else {}),
    }


def tuned_arms(runs: Runs, batches: Sequence[int], threads: Executor) -> dict[str, dict[int, float]]:
    """The learning rate of every arm at every batch."""
    adamw, lamb = threads.map(lambda optimizer: tuned(runs, optimizer, batches), ("adamw", "lamb"))
    first = min(batches)
    one = adamw[first]
    return {
        "adamw": dict.fromkeys(batches, one),
        "adamw-sqrt": {batch: one * math.sqrt(batch / first) for batch in batches},
        "adamw-tuned": adamw,
        "lamb-tuned": lamb,
    }


def tuned(runs: Runs, optimizer: str, batches: Sequence[int]) -> dict[int, float]:
    """The learning rate with the lowest dev loss, by batch.

    The search begins at the best of the next smaller batch: between two learning rates that are much too large, the
    loss does not tell where better ones are.
    """

    def lr(place: int) -> float:
        return float(f"{START[optimizer] * FACTOR**place:.6g}")

    def loss(batch: int, place: int) -> float:
        found: float = runs.of(Case(optimizer, batch, lr(place), TUNING_SEED))["loss"]
        return found

    best, found = 0, {}
    for batch in sorted(batches):
        begin, losses = best, {place: loss(batch, place) for place in (best - 1, best, best + 1)}
        while True:
            best = min(losses, key=lambda place: losses[place])
            beyond = [place for place in (best - 1, best + 1) if place not in losses]
            if not beyond:
                break
            if abs(best - begin) >= FARTHEST:
                sys.exit(
                    f"{optimizer} at batch {batch}: no best learning rate between {lr(min(losses))} and {lr(best)}"
                )
            losses |= {place: loss(batch, place) for place in beyond}
        found[batch] = lr(best)
    return found


def reached(row: dict[str, Any], column: int, target: float) -> float | None:
    """Optimizer steps until the dev loss (column 1) or F1 (column 2) is as good as the target, between evaluations."""
    sign = 1 if column == 2 else -1
    before = None
    for point in row["curve"]:
        if sign * point[column] >= sign * target:
            if before is None:
                return float(point[0])
            share = (target - before[column]) / (point[column] - before[column])
            return float(before[0] + share * (point[0] - before[0]))
        before = point
    return None


def critical_batch(steps: dict[int, float]) -> tuple[float, float] | None:
    """(Smin, critical batch) of (S / Smin - 1)(E / Emin - 1) = 1 with E = S x batch (arXiv:1812.06162, equation 5.1).

    It is the line S = Smin + Emin / batch, fitted by least squares of the relative errors. None without three batches.
    """
    if len(steps) < 3:
        return None
    points = [(1 / batch, step, 1 / step**2) for batch, step in steps.items()]
    total = sum(weight for *_, weight in points)
    x, y = (sum(point[axis] * point[2] for point in points) / total for axis in (0, 1))
    spread = sum(weight * (one - x) ** 2 for one, _, weight in points)
    slope = sum(weight * (one - x) * (other - y) for one, other, weight in points) / spread
    least = y - slope * x
    return (least, slope / least) if least > 0 and slope > 0 else None


def report(
    options: argparse.Namespace, arms: dict[str, dict[int, float]], runs: Runs, measured: dict[str, Any]
) -> None:
    """Write the tables of report.md and its figures."""
    seeds, first = range(FIRST_SEED, FIRST_SEED + options.seeds), min(options.batches)

    def rows(arm: str, batch: int) -> list[dict[str, Any]]:
        return [runs.rows[Case(arm.partition("-")[0], batch, arms[arm][batch], seed)] for seed in seeds]

    def mean(arm: str, batch: int, key: str) -> float:
        return statistics.fmean(row[key] for row in rows(arm, batch))

    targets = {1: LOSS_TARGET * mean("adamw-tuned", first, "loss"), 2: F1_TARGET * mean("adamw-tuned", first, "f1")}
    diverged = sum(row["outcome"] != "finished" for row in runs.rows.values())
    lines = [
        f"{runs.task}, {options.seeds} seeds; {len(runs.rows)} runs in all, {diverged} of them diverged.",
        "",
        f"Targets: dev loss {targets[1]:.4f} ({LOSS_TARGET} x that of tuned AdamW at batch {first}), dev F1 "
        f"{targets[2]:.4f} ({F1_TARGET} x). Steps and windows to a target are means over the seeds.",
        "",
        "| batch | | learning rate | dev F1 | dev loss | steps to the loss | windows | steps to the F1 | windows |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    scores: dict[str, list[Mark]] = {arm: [] for arm in ARMS}
    reaching: dict[tuple[str, int], dict[int, float]] = {}
    for batch in options.batches:
        for arm, text in ARMS.items():
            own = rows(arm, batch)
            cells = [str(batch), text, f"{arms[arm][batch]:.3g}"]
            for key in ("f1", "loss"):
                values = [row[key] for row in own]
                half = half_width(values)
                text_of = f"{statistics.fmean(values):.4f}" + ("" if half is None else f" ± {half:.4f}")
                cells.append("diverged" if WORST in values else text_of)
            scores[arm].append(Mark(batch, mean(arm, batch, "f1"), half_width([row["f1"] for row in own])))
            for column, target in targets.items():
                steps = [found for row in own if (found := reached(row, column, target)) is not None]
                if len(steps) == len(own):
                    average = statistics.fmean(steps)
                    reaching.setdefault((arm, column), {})[batch] = average
                    cells += [f"{average:.0f}", f"{average * batch:.0f}"]
                else:
                    cells += [f"reached by {len(steps)} of {len(own)}", ""]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| | target | fewest steps | critical batch |", "|---|---|---|---|"]
    windows: list[NamedLine] = []
    for (arm, column), steps_of in reaching.items():
        name = f"{ARMS[arm]}, {'loss' if column == 1 else 'F1'}"
        windows.append(NamedLine(name, [Mark(batch, step * batch) for batch, step in steps_of.items()]))
        found = critical_batch(steps_of)
        cells = ["no fit", ""] if found is None else [f"{found[0]:.0f}", f"{found[1]:.0f} windows"]
        lines.append(f"| {ARMS[arm]} | {'loss' if column == 1 else 'F1'} | {' | '.join(cells)} |")
    lines += ["", noise_text(measured["noise"], measured["curve"][-1][0], first), "", *largest(options, arms, rows)]
    title = "Dev F1 by batch, with the 95% confidence interval of the mean"
    figures = {"f1.svg": (title, [NamedLine(ARMS[arm], marks) for arm, marks in scores.items()])}
    figures |= {"windows.svg": ("Windows until a target is reached", windows)} if windows else {}
    for name, (title, drawn) in figures.items():
        (options.out / name).write_text(chart(title, "batch", drawn, options.batches), encoding="utf-8")
    (options.out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def noise_text(noise: Sequence[tuple[int, float]], steps: int, batch: int) -> str:
    """The gradient noise scale in the four quarters of a run; a step where it is lost in the noise has none."""
    parts: list[list[float]] = [[], [], [], []]
    for step, scale in noise:
        parts[4 * (step - 1) // steps].append(scale)
    medians = ", ".join(f"{statistics.median(part):.0f}" if part else "none" for part in parts)
    return f"Gradient noise scale, AdamW at batch {batch}, medians of the quarters of the run: {medians} windows."


def largest(
    options: argparse.Namespace, arms: Iterable[str], rows: Callable[[str, int], list[dict[str, Any]]]
) -> list[str]:
    """For every arm, the largest batch whose mean dev F1 is within one standard error of that at the smallest batch."""
    lines = []
    for arm in arms:
        first = [row["f1"] for row in rows(arm, min(options.batches))]
        if len(first) < 2:
            continue
        error = statistics.stdev(first) / math.sqrt(len(first))
        good = [
            batch
            for batch in options.batches
            if statistics.fmean(row["f1"] for row in rows(arm, batch)) >= statistics.fmean(first) - error
        ]
        lines.append(
            f"{ARMS[arm]}: the largest batch with a mean dev F1 within one standard error ({error:.4f}) of batch "
            f"{min(options.batches)} is {max(good)}."
        )
    return lines


if __name__ == "__main__":
    main()
