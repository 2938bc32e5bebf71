"""A run whose global batch changes: what it logs, which windows it trains on, and which runs may go on from it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layoutner.corpus.order import permuted
from layoutner.distributed.ranks import Ranks
from layoutner.settings.tree import load
from layoutner.training.global_batch import global_batches
from layoutner.training.plan import Plan, make_plan
from tests.builders.forks import fork

ALONE = Ranks(0, 1, torch.device("cpu"))
SIZES = [2, 2, 2, 50, 50, 8, 8, 8]  # of the steps of RAMP, unless an epoch ends
RAMP = "0:2,3:50,5:8"


@pytest.fixture(scope="module")
def run(train_arguments: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run with RAMP on one rank, and what it said."""
    folder = tmp_path_factory.mktemp("ramp") / "run"
    given: dict[str, Any] = {"batch__ramp": RAMP, "batch__reference_batch_size": 4, "optimizer__scale_lr": "linear"}
    given |= {"optimizer__lr": 1e-3, "schedule__max_steps": len(SIZES), "schedule__warmup_steps": 2}
    done = fork(["layoutner", "train", *train_arguments(folder, **given)])
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout + done.stderr


def plan_of(folder: Path, **batch: Any) -> Plan:
    """The plan of a run, with other settings of [batch]."""
    return make_plan(load(str(folder / "settings.toml"), {"batch": batch}), 1)


def expected_windows(seed: int, count: int) -> list[list[int]]:
    """The windows of each step: the next of the epoch, or what is left of it."""
    orders, epoch = [permuted(np.arange(count), count, f"{seed}/{epoch}").tolist() for epoch in range(3)], 0
    steps = []
    for size in SIZES:
        steps.append(orders[epoch][:size])
        orders[epoch] = orders[epoch][size:]
        epoch += not orders[epoch]
    return steps


def test_the_run_follows_the_ramp(run: tuple[Path, str]) -> None:
    folder, said = run
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(SIZES) + 1))
    # The peak is 1e-3 x (windows / 4), also in the last step of an epoch, which has fewer.
    factors = [0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    peaks = [1e-3 * size / 4 for size in SIZES]
    assert [line["train/lr"] for line in lines] == pytest.approx(
        [peak * factor for peak, factor in zip(peaks, factors, strict=True)], rel=1e-12
    )
    # Every step trained on the tokens of its windows.
    windows = plan_of(folder).windows["train"]
    expected = expected_windows(42, len(windows))
    assert any(len(indices) < size for indices, size in zip(expected, SIZES, strict=True))  # an epoch ends
    assert [round(line["throughput/tokens_per_s"] * line["time/step_s"]) for line in lines] == [
        int(windows.lengths[indices].sum()) for indices in expected
    ]
    config = json.loads((folder / "ds_config.json").read_text())
    assert ("scheduler" in config, config["train_batch_size"]) == (False, 8)
    assert "batch: 2 windows per step = 2 per micro-batch x 1 gradient accumulation step x 1 rank" in said
    assert (
        "batch: after 3 steps 50 windows per step = 2 per micro-batch x 25 gradient accumulation steps x 1 rank" in said
    )
    assert (
        "batch: after 5 steps 8 windows per step = 2 per micro-batch x 4 gradient accumulation steps x 1 rank" in said
    )
    assert "3 steps of 2 windows, then 2 steps of 50 windows, then 3 steps of 8 windows; " in said
    assert "adamw, peak learning rate 0.0005 = 0.001 x (2 / 4), after 3 steps 0.0125 = 0.001 x (50 / 4)" in said


def test_the_windows_and_micro_batches_of_a_step_are_those_of_its_phase(run: tuple[Path, str]) -> None:
    plan = plan_of(run[0], micro_batch_size=8)
    expected = expected_windows(42, len(plan.windows["train"]))
    found = list(global_batches(plan, ALONE, 0))
    assert [one.indices for one in found] == expected
    # The fewest micro-batches of at most 8, of sizes that differ by at most one window.
    for one, size in zip(found, SIZES, strict=True):
        largest = -(-size // -(-size // 8))
        sizes = [len(indices) for indices in one.micro_batch_indices]
        assert sum(sizes) == len(one.indices)
        assert len(sizes) == -(-len(one.indices) // largest)
        assert max(sizes) - min(sizes) <= 1
    # From the middle of the run, as after a restart.
    assert [one.indices for one in global_batches(plan, ALONE, 4)] == expected[4:]


def test_a_ramp_that_does_not_change_is_the_same_run(run: tuple[Path, str]) -> None:
    constant, ramped = (plan_of(run[0], ramp=ramp, global_batch_size=8) for ramp in ("0:8", RAMP))
    plain = make_plan(
        constant.settings.model_copy(update={"batch": constant.settings.batch.model_copy(update={"ramp": None})}), 1
    )
    assert constant.identity.must_match == plain.identity.must_match
    assert "ramp" not in plain.identity.must_match
    assert ramped.identity.must_match == {**plain.identity.must_match, "ramp": [[0, 2], [3, 50], [5, 8]]}
    assert constant.ds_config == plain.ds_config
    assert constant.describe() == plain.describe()
    for step in range(8):
        assert constant.step_batches(step) == plain.step_batches(step)
        assert constant.lr(step) == plain.lr(step) == plain.optimizer.lr * plain.schedule.factor(step)


def test_the_note_on_full_batches_is_about_the_largest_phase_that_begins(run: tuple[Path, str]) -> None:
    said = plan_of(run[0], ramp="0:500,2:8").describe()
    assert "note: a step of 500 windows takes all " in said
    said = plan_of(run[0], ramp="0:4,100:500", global_batch_size=500).describe()
    assert "takes all" not in said
    assert "warning: batch.ramp: 500 windows after 100 steps, but the run has 8 optimizer steps" in said
