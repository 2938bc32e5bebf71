"""How far large batches carry: steps and windows to a fixed dev score, by batch size, optimizer and learning rate.

    python benchmarks/large_batch.py OUT [--batches 16 32 64 128 256 512] [--seeds 5] [--epochs 8] [--jobs 2]

The task is made here. Each page has one of many layouts, which its title names. The layout decides which field lies
where, and the words of the fields say nothing. Some labels are wrong, on dev pages too, so no model is perfect. The
network is a LayoutLM of two layers of 64, from random weights.

Four arms: AdamW with the learning rate that is best at the smallest batch, the same with the square root rule
(optimizer.scale_lr = sqrt), and AdamW and LAMB with a learning rate tuned for each batch. Tuning doubles and halves the
learning rate, with one seed, until the best has been passed on both sides. Then every arm is trained with other seeds.
Everything is chosen by the loss on the dev pages, and all runs have the same number of epochs.

Every run is kept as one line of OUT/runs.jsonl; a second call goes on from there. OUT/report.md has the tables.
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
from layoutner.cli.arguments import quiet
from layoutner.sweeps.results import half_width

KINDS = ("name", "number", "date", "sum", "place", "code", "phone", "note")
CELLS = [(100 + 300 * column, 150 + 200 * row) for row in range(4) for column in range(3)]
WORDS = [f"{first}{last}" for first in ("ba", "ko", "mi", "ru", "te") for last in ("lan", "nor", "sik", "ver", "dut")]
WRONG = 0.04  # share of the entities with a wrong label
PAGES, DEV_PAGES = 4096, 512
LENGTH = 128  # tokens of the longest window; a page has fewer
TUNING_SEED, FIRST_SEED = 1, 11
WORST = 1e9  # loss of a run that diverged
EVALUATED = 1024  # windows between two evaluations
# Where tuning begins at the smallest batch, and the ratio of two learning rates next to each other.
START = {"adamw": 2e-3, "lamb": 1.6e-2}
FACTOR, FARTHEST = 2.0, 10
ARMS = {
    "adamw": "AdamW, one learning rate",
    "adamw-sqrt": "AdamW, square root rule",
    "adamw-tuned": "AdamW, tuned at each batch",
    "lamb-tuned": "LAMB, tuned at each batch",
}
# The dev loss and F1 that steps are counted to, relative to the tuned AdamW at the smallest batch.
LOSS_TARGET, F1_TARGET = 1.05, 0.98


@dataclass(frozen=True)
class Case:
    """What distinguishes two runs."""

    optimizer: str
    batch: int
    lr: float
    seed: int


class Runs:
    """All runs that there are, in a file of one line per run, after a line that says what the task was."""

    def __init__(self, file: Path, task: dict[str, int], start: Callable[[Case], dict[str, Any]]) -> None:
        self._file, self._start, self._lock = file, start, threading.Lock()
        if not file.exists():
            file.write_text(json.dumps(task) + "\n", encoding="utf-8")
        first, *lines = file.read_text(encoding="utf-8").splitlines()
        if json.loads(first) != task:
            sys.exit(f"{file} holds runs of another task, {first}: give another OUT")
        if lines and not lines[-1].endswith("}"):  # a call that was killed left it half written
            lines.pop()
            file.write_text("".join(f"{line}\n" for line in [first, *lines]), encoding="utf-8")
        rows = [json.loads(line) for line in lines]
        self.rows = {Case(**{key: row[key] for key in Case.__dataclass_fields__}): row for row in rows}

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
    parser.add_argument("--layouts", type=int, default=48)
    parser.add_argument("--pages", type=int, default=PAGES, help="training pages")
    parser.add_argument("--dev-pages", type=int, default=DEV_PAGES)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, on one thread each")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder)
        make_task(task, options.layouts, options.pages, options.dev_pages)
        # Each process trains a few runs and ends, so that nothing piles up.
        workers = ProcessPoolExecutor(
            options.jobs, multiprocessing.get_context("spawn"), initializer=one_thread, max_tasks_per_child=20
        )
        with workers, ThreadPoolExecutor(options.jobs) as threads:
            runs = Runs(
                options.out / "runs.jsonl",
                {name: vars(options)[name] for name in ("pages", "dev_pages", "layouts", "epochs")},
                lambda case: workers.submit(train, case, task, options.epochs, options.pages).result(),
            )
            arms = tuned_arms(runs, options.batches, threads)
            cases = [
                Case(name.partition("-")[0], batch, lr, FIRST_SEED + seed)
                for seed in range(options.seeds)
                for name, lrs in arms.items()
                for batch, lr in lrs.items()
            ]
            list(threads.map(runs.of, dict.fromkeys(cases)))
    report(options, arms, runs)


def one_thread() -> None:
    """Prepare a process that trains: runs at the same time share the processors."""
    os.environ["OMP_NUM_THREADS"] = "1"
    quiet()
    import torch

    torch.set_num_threads(1)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


def make_task(folder: Path, layouts: int, pages: int, dev_pages: int) -> None:
    """Write pages as train.jsonl and eval.jsonl, and an untrained checkpoint with a tokenizer for their words."""
    rng = random.Random(0)
    names = [f"layout{number}" for number in range(layouts)]
    fields = {name: dict(zip(rng.sample(CELLS, len(KINDS)), KINDS, strict=True)) for name in names}
    for role, count in (("train", pages), ("eval", dev_pages)):
        lines = [json.dumps(page(f"{role}-{number}", fields, rng)) for number in range(count)]
        (folder / f"{role}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    make_network(folder / "checkpoint", [*names, *WORDS])


def make_network(folder: Path, words: Sequence[str]) -> None:
    """Write an untrained LayoutLM, and a tokenizer that knows each word as a whole; the same in every call."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LayoutLMConfig, LayoutLMForTokenClassification, PreTrainedTokenizerFast

    from layoutner.demo.checkpoint import SIZE, SPECIAL
    from layoutner.models.layout_tables import init_layout_tables

    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LENGTH, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {**SIZE, "vocab_size": len(vocabulary), "max_position_embeddings": LENGTH}
    model = LayoutLMForTokenClassification(LayoutLMConfig(**sizes))
    init_layout_tables(model.layoutlm.embeddings, scale=2.0)
    model.save_pretrained(folder)


def page(name: str, fields: dict[str, dict[tuple[int, int], str]], rng: random.Random) -> dict[str, Any]:
    """One page: its title, and one or two words in every cell, in any order."""
    layout = rng.choice(list(fields))
    entities = [[{"text": layout, "box": [400, 40, 600, 60], "label": "O"}]]
    for x, y in CELLS:
        kind = fields[layout].get((x, y))
        if kind is not None and rng.random() < WRONG:
            kind = rng.choice(KINDS)
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


def train(case: Case, task: Path, epochs: int, pages: int) -> dict[str, Any]:
    """Train one run, and return its best dev scores and its curve: (step, dev loss, dev F1)."""
    begin = time.perf_counter()
    run = Path(tempfile.mkdtemp(dir=task))
    settings = layoutner.load_settings(
        None,
        {
            "model": {"name_or_path": str(task / "checkpoint"), "dropout": 0.0},
            "data": {"format": "jsonl", "train": str(task / "train.jsonl"), "eval": str(task / "eval.jsonl")}
            | {"max_length": LENGTH, "stride": 0},
            "batch": {"global_batch_size": case.batch, "micro_batch_size": min(case.batch, 64)},
            "optimizer": {"name": case.optimizer, "lr": case.lr, "weight_decay": 0.01},
            "schedule": {"epochs": epochs, "warmup_ratio": 0.1},
            "precision": {"dtype": "fp32"},
            "run": {"output_dir": str(run / "run"), "seed": case.seed, "log_every": 0, "save_every": 0}
            | {"eval_every": max(1, EVALUATED // case.batch), "device": "cpu"},
        },
    )
    try:
        layoutner.train(settings)
        outcome = "finished"
    except layoutner.TrainingDiverged:
        outcome = "diverged"
    file = run / "run" / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    curve = [[one["step"], round(one["eval/loss"], 5), round(one["eval/f1"], 5)] for one in lines if "eval/f1" in one]
    shutil.rmtree(run)
    return {
        "outcome": outcome,
        "f1": max((f1 for _, _, f1 in curve), default=0.0) if outcome == "finished" else 0.0,
        "loss": min((loss for _, loss, _ in curve), default=WORST) if outcome == "finished" else WORST,
        "steps": epochs * math.ceil(pages / case.batch),
        "seconds": round(time.perf_counter() - begin, 1),
        "curve": curve,
    }


def tuned_arms(runs: Runs, batches: Sequence[int], threads: Executor) -> dict[str, dict[int, float]]:
    """The learning rate of every arm at every batch."""
    asked = [(optimizer, batch) for batch in batches for optimizer in START]
    found = dict(zip(asked, threads.map(lambda one: tuned(runs, *one, min(batches)), asked), strict=True))
    first = min(batches)
    one = found["adamw", first]
    return {
        "adamw": dict.fromkeys(batches, one),
        "adamw-sqrt": {batch: one * math.sqrt(batch / first) for batch in batches},
        "adamw-tuned": {batch: found["adamw", batch] for batch in batches},
        "lamb-tuned": {batch: found["lamb", batch] for batch in batches},
    }


def tuned(runs: Runs, optimizer: str, batch: int, smallest: int) -> float:
    """The learning rate with the lowest dev loss, from those around the square root rule outwards."""

    def lr(place: int) -> float:
        return float(f"{START[optimizer] * FACTOR**place:.6g}")

    def loss(place: int) -> float:
        found: float = runs.of(Case(optimizer, batch, lr(place), TUNING_SEED))["loss"]
        return found

    middle = round(math.log(math.sqrt(batch / smallest), FACTOR))
    losses = {place: loss(place) for place in range(middle - 1, middle + 2)}
    while True:
        best = min(losses, key=lambda place: losses[place])
        beyond = [place for place in (best - 1, best + 1) if place not in losses]
        if not beyond or abs(best - middle) >= FARTHEST:
            return lr(best)
        losses |= {place: loss(place) for place in beyond}


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


def report(options: argparse.Namespace, arms: dict[str, dict[int, float]], runs: Runs) -> None:
    """Write the tables of report.md."""
    seeds, first = range(FIRST_SEED, FIRST_SEED + options.seeds), min(options.batches)

    def rows(arm: str, batch: int) -> list[dict[str, Any]]:
        return [runs.rows[Case(arm.partition("-")[0], batch, arms[arm][batch], seed)] for seed in seeds]

    def mean(arm: str, batch: int, key: str) -> float:
        return statistics.fmean(row[key] for row in rows(arm, batch))

    targets = {1: LOSS_TARGET * mean("adamw-tuned", first, "loss"), 2: F1_TARGET * mean("adamw-tuned", first, "f1")}
    lines = [
        f"{options.pages} training pages, {options.dev_pages} dev pages, {options.layouts} layouts, "
        f"{options.epochs} epochs, "
        f"{options.seeds} seeds; {len(runs.rows)} runs in all, "
        f"{sum(row['outcome'] != 'finished' for row in runs.rows.values())} of them diverged.",
        "",
        f"Targets: dev loss {targets[1]:.4f} ({LOSS_TARGET} x that of tuned AdamW at batch {first}), dev F1 "
        f"{targets[2]:.4f} ({F1_TARGET} x). Steps and windows to a target are means over the seeds.",
        "",
        "| batch | | learning rate | dev F1 | dev loss | steps to the loss | windows | steps to the F1 | windows |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    curves: dict[tuple[str, int], dict[int, float]] = {}
    for batch in options.batches:
        for arm, text in ARMS.items():
            own = rows(arm, batch)
            cells = [str(batch), text, f"{arms[arm][batch]:.3g}"]
            for key in ("f1", "loss"):
                values = [row[key] for row in own]
                half = half_width(values)
                cells.append(f"{statistics.fmean(values):.4f}" + ("" if half is None else f" ± {half:.4f}"))
            for column, target in targets.items():
                steps = [found for row in own if (found := reached(row, column, target)) is not None]
                if len(steps) == len(own):
                    average = statistics.fmean(steps)
                    curves.setdefault((arm, column), {})[batch] = average
                    cells += [f"{average:.0f}", f"{average * batch:.0f}"]
                else:
                    cells += [f"reached by {len(steps)} of {len(own)}", ""]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| | target | fewest steps | critical batch |", "|---|---|---|---|"]
    for (arm, column), steps_of in curves.items():
        found = critical_batch(steps_of)
        text = "no fit" if found is None else f"{found[0]:.0f} | {found[1]:.0f} windows"
        lines.append(f"| {ARMS[arm]} | {'loss' if column == 1 else 'F1'} | {text} |")
    lines += ["", *largest(options, arms, rows)]
    (options.out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


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
