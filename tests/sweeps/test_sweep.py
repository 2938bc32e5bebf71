"""`layoutner sweep`: points, names, what is refused, ranking, figures, and real runs in processes of their own."""

import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
import pytest

from layoutner.distributed.machine import available_cpus
from layoutner.errors import CheckpointError, SettingsError
from layoutner.files.lock import Lock
from layoutner.sweeps.figures import draw_figures
from layoutner.sweeps.processes import error_in, exit_code_of_rank, slot_environments
from layoutner.sweeps.results import (
    STUDENT_T,
    Failure,
    Failures,
    half_width,
    notes,
    read_results,
    table,
    write_results,
)
from layoutner.sweeps.sweep import LONGEST_NAME, Run, Sweep, name_of, read_sweep
from tests.builders.checkpoints import checkpoint
from tests.builders.forks import Forks
from tests.builders.markdown import block
from tests.builders.processes import HANGS_S, ROOT, call, untimed

Arguments = Callable[..., list[str]]
Say = pytest.CaptureFixture[str]
SVG = "{http://www.w3.org/2000/svg}"


def write(folder: Path, text: str = "", top: str = "", shared: str = "[settings.data]\neval = 0.25\n") -> Path:
    """The file of a sweep in `folder`/runs."""
    path = folder / "sweep.toml"
    path.write_text(f'output_dir = "{folder / "runs"}"\n{top}\n{shared}\n{text}\n')
    return path


def finish(run: Run, f1: float, loss: float = 0.5, curve: dict[int, float] | None = None) -> None:
    """Leave what a finished run leaves, as far as a sweep reads it."""
    run.folder.mkdir(parents=True)
    (run.folder / "settings.toml").write_text(run.settings.to_toml())
    scores = {"f1": f1, "precision": f1, "recall": f1, "loss": loss, "scheme": "BIO", "box_level": "word"}
    scores |= {"counts": {"words": 2}, "checkpoint": {"step": 4, "by": "eval f1"}}
    (run.folder / "scores.json").write_text(json.dumps(scores))
    rows = [{"step": step, "train/loss": 1.0, "eval/f1": value} for step, value in (curve or {4: f1}).items()]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 99, "tr')


GRID = '[grid]\n"batch.global_batch_size" = [16, 32]\n"optimizer.lr" = [3e-5, 5e-5]\n'


def test_the_grid_is_combined_with_the_points(tmp_path: Path) -> None:
    points = '[[points]]\n"optimizer.name" = "lion"\n[[points]]\n"optimizer.betas" = [0.9, 0.98]\n'
    sweep = read_sweep(write(tmp_path, GRID + points, "seeds = [2, 1]"))
    assert len(sweep.points) == 8
    assert [point.name for point in sweep.points[::5]] == [
        "global_batch_size=16,lr=3e-05,name=lion",
        "global_batch_size=16,lr=5e-05,betas=0.9+0.98",
    ]
    assert sweep.points[7].values == {
        "batch.global_batch_size": 32,
        "optimizer.lr": 5e-5,
        "optimizer.betas": [0.9, 0.98],
    }
    # The first seed of every point comes first.
    assert [run.seed for run in sweep.runs] == [2] * 8 + [1] * 8
    run = sweep.points[2].runs[1]
    assert run is sweep.runs[8 + 2]
    assert run.name == "global_batch_size=32,lr=3e-05,name=lion,seed=1"
    assert run.folder == tmp_path / "runs" / run.name
    assert (run.settings_file, run.log) == (
        tmp_path / "runs" / f"{run.name}.toml",
        tmp_path / "runs" / f"{run.name}.log",
    )
    settings = run.settings
    assert (settings.batch.global_batch_size, settings.optimizer.lr, settings.optimizer.name) == (32, 3e-5, "lion")
    assert (settings.run.seed, settings.run.resume, settings.data.eval) == (1, "auto", 0.25)
    assert (settings.wandb.name, settings.wandb.group) == (run.name, "runs")


def test_keys_without_quotes_mean_the_same(tmp_path: Path) -> None:
    plain = "[grid]\nbatch.global_batch_size = [16, 32]\noptimizer.lr = [3e-5, 5e-5]\n[[points]]\nmodel.dropout = 0.1\n"
    quoted = GRID + '[[points]]\n"model.dropout" = 0.1\n'
    assert read_sweep(write(tmp_path, plain)) == read_sweep(write(tmp_path, quoted))


def test_seeds_alone_are_a_sweep_and_names_keep_when_seeds_are_added(tmp_path: Path) -> None:
    names = [run.name for run in read_sweep(write(tmp_path)).runs]
    assert names == ["seed=42"]
    assert [run.name for run in read_sweep(write(tmp_path, top="seeds = [42, 7]")).runs] == ["seed=42", "seed=7"]


def test_later_sources_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base.toml").write_text("[schedule]\nepochs = 3\n[optimizer]\nlr = 1.0\nweight_decay = 0.1\n")
    shared = "[settings]\ndata.eval = 0.25\nschedule.max_steps = 7\noptimizer.weight_decay = 0.2\n"
    monkeypatch.setenv("LAYOUTNER_OPTIMIZER__WEIGHT_DECAY", "0.3")
    monkeypatch.setenv("LAYOUTNER_OPTIMIZER__LR", "2.0")
    file = write(tmp_path, '[grid]\n"optimizer.lr" = [4.0]\n', f'config = "{tmp_path / "base.toml"}"', shared)
    settings = read_sweep(file).runs[0].settings
    assert (settings.schedule.epochs, settings.schedule.max_steps) == (None, 7)
    assert (settings.optimizer.lr, settings.optimizer.weight_decay) == (4.0, 0.3)
    # A run is given all of it in its file, and none of it in its environment.
    (environment,) = slot_environments(1, 1, ())
    assert not [name for name in environment if name.startswith("LAYOUTNER_OPTIMIZER")]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"lr": 5e-05, "global_batch_size": 16}, "lr=5e-05,global_batch_size=16"),
        ({"images": "use", "label_all_subwords": True}, "images=use,label_all_subwords=true"),
        ({"betas": [0.9, 0.999]}, "betas=0.9+0.999"),
        ({"dir": "a b/ü"}, r"dir=a-b---[0-9a-f]{8}"),
        ({"key": "x" * 200}, "key=x{87}-[0-9a-f]{8}"),
    ],
)
def test_a_name_fits_a_file(values: dict[str, Any], name: str) -> None:
    found = name_of(values)
    assert re.fullmatch(name.replace("+", r"\+"), found)
    assert len(found) <= LONGEST_NAME


def test_names_that_are_cut_differ() -> None:
    assert len({name_of({"key": "x" * 200 + str(number)}) for number in range(50)}) == 50
    assert name_of({"dir": "a/b"}) != name_of({"dir": "a b"})


def test_settings_of_the_same_last_name_are_told_apart(tmp_path: Path) -> None:
    text = '[grid]\n"run.log_every" = [5]\n"optimizer.name" = ["lamb"]\n"wandb.name" = ["x"]\n'
    (run,) = read_sweep(write(tmp_path, text)).runs
    assert run.name == "log_every=5,optimizer.name=lamb,wandb.name=x,seed=42"


@pytest.mark.parametrize(
    ("text", "top", "messages"),
    [
        ("[grids]\n", "", ["grids: unknown; did you mean 'grid'?"]),
        ("", "seeds = [true]\nconfig = 3", ["seeds.0: ", "config: input should be a valid string"]),
        ('[grid]\n"optimizer.lr" = 3e-5\n', "", ["grid.optimizer.lr: input should be a valid list"]),
        ('[grid]\n"optimizer.lr" = [1]\noptimizer.lr = [1]\n', "", ["optimizer.lr is given twice"]),
        ("[grid\n", "", ["no file of a sweep: cannot be read: "]),
        # All problems of the values at once.
        (
            '[grid]\n"optimizer.lr" = [-1.0, 1.0]\n"batch.global_batch" = [1, 2]\n"model.dropout" = []\n'
            '[[points]]\n"optimizer.lr" = 2.0\n"run.seed" = 1\n"run.overwrite" = true\nlr = 2\n',
            "seeds = [1, 1]",
            [
                "seeds: 1 is given twice",
                "[grid] model.dropout = []: give at least one value",
                "[[points]] run.seed: give the seeds at the top of the file",
                "[[points]] run.overwrite: a sweep trains no finished run again",
                "[[points]] lr: a setting is named section.key",
                "optimizer.lr is in [grid] and in [[points]]: give it in one",
            ],
        ),
        (
            '[grid]\n"optimizer.lr" = [-1.0, 1.0]\n"batch.global_batch" = [1, 2]\n',
            "",
            [
                "the sweep: optimizer.lr = -1.0: input should be greater than 0",
                "the sweep: batch.global_batch: unknown; did you mean 'global_batch_size'?",
            ],
        ),
        ("[settings.run]\nseed = 1\nresume = 'must'\n", "seeds = [1]", ["run.seed: give", "run.resume: it is auto"]),
        ("[settings.run]\noutput_dir = 'x'\n", "", ["[settings] run.output_dir: every run has a folder of its own"]),
        ("", "seeds = []\npoints = []", ["seeds = []: give", "points = []: give"]),
        ("[settings.data]\ntrian = 'x'\neval = 0.1\n", "", ["[settings]: data.trian: unknown; did you mean 'train'?"]),
        ("[settings.data]\ntest = 'x'\neval = 0.1\n", "", ["data.test = x: a sweep ranks its runs by their score on"]),
        ("[settings.data]\ntrain = 'x'\n", "", ["data.eval is missing: the runs are ranked by their score on it"]),
        ("", '[grid]\n"data.fold" = [1, 2]\n', ["data.fold: it decides what is scored, so runs with other values"]),
        ('[grid]\n"optimizer.lr" = [1e-3, 0.001]\n', "", ["two points are the same: lr=0.001"]),
        (
            '[[points]]\n[[points]]\n"optimizer.name" = "adamw"\n',
            "",
            ["two points are the same: the settings and name=adamw"],
        ),
        # Values that another value of the same point would switch off.
        (
            '[grid]\n"optimizer.betas" = [[0.9, 0.9], [0.9, 0.99]]\n[[points]]\n"optimizer.name" = "lars"\n',
            "",
            ["optimizer.name = lars has no betas"],
        ),
        ('[grid]\n"schedule.epochs" = [1, 2]\n[[points]]\n"schedule.max_steps" = 9\n', "", ["give one of the two"]),
    ],
)
def test_what_is_wrong_is_refused(text: str, top: str, messages: list[str], tmp_path: Path) -> None:
    shared = "" if "[settings" in text else "[settings.data]\neval = 0.25\n"
    if "[settings.run]" in text:
        shared = "[settings.data]\neval = 0.25\n"
    with pytest.raises(SettingsError) as caught:
        read_sweep(write(tmp_path, text, top, shared))
    for message in messages:
        assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "sweep.toml"))


def test_a_fold_may_take_the_place_of_eval(tmp_path: Path) -> None:
    assert len(read_sweep(write(tmp_path, "", "", "[settings.data]\nfolds = 3\nfold = 1\n")).runs) == 1


def test_the_file_of_the_page_is_one(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(block("docs/sweeps.md", "toml"))
    sweep = read_sweep(file)
    assert (len(sweep.points), len(sweep.runs)) == (4, 8)
    assert "global_batch_size=32,lr=0.003,seed=1" in [run.name for run in sweep.runs]


def test_the_interval_is_student_s() -> None:
    assert half_width([0.7]) is None
    # Of 1 to 5: mean 3, standard deviation sqrt(2.5), t of 4 degrees of freedom 2.776.
    assert half_width([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2.776 * math.sqrt(2.5) / math.sqrt(5), rel=1e-12)
    assert half_width([0.5, 0.7]) == pytest.approx(12.706 * 0.1, rel=1e-12)
    many = [float(number % 7) for number in range(100)]
    assert half_width(many) == pytest.approx(2.042 * statistics.stdev(many) / 10, rel=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 5, 13, 30])
def test_the_quantiles_hold_95_percent(freedom: int) -> None:
    """The density of Student's distribution, integrated from -t to t."""
    quantile = STUDENT_T[freedom - 1]
    t = np.linspace(-quantile, quantile, 400_001)
    log_gammas = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    density = math.exp(log_gammas) / math.sqrt(freedom * math.pi) * (1 + t**2 / freedom) ** (-(freedom + 1) / 2)
    assert float(np.trapezoid(density, t)) == pytest.approx(0.95, abs=6e-5)


@pytest.fixture
def half_done(tmp_path: Path) -> Sweep:
    """Three batches x two learning rates x two seeds: one point failed once, one has no scores."""
    grid = '[grid]\n"batch.global_batch_size" = [8, 16, 64]\n"optimizer.lr" = [1e-3, 3e-3]\n'
    sweep = read_sweep(write(tmp_path, grid, "seeds = [1, 2]"))
    made = ((0.5, 0.6), (0.8, 0.7), (0.6, 0.6), (0.7, 0.8), (0.9, None), (None, None))
    for point, f1s in zip(sweep.points, made, strict=True):
        for run, f1 in zip(point.runs, f1s, strict=True):
            if f1 is not None:
                # At the same F1, the lower loss is better.
                loss = 0.1 if point.number == 4 else 0.5
                finish(run, f1, loss, {2: f1 / 2, 4: f1} if run.seed == 1 else {3: 0.9, 4: f1})
    failure = Failure(exit_code=2, message="the loss of optimizer step 3 is nan: training stops")
    Failures().record(sweep.folder, sweep.points[4].runs[1].name, failure)
    return sweep


def test_points_are_ranked_by_f1_then_loss_and_those_without_all_scores_last(half_done: Sweep) -> None:
    results = read_results(half_done)
    assert [result.point.number for result in results] == [4, 2, 3, 1, 5, 6]
    assert table(half_done, results).splitlines() == [
        "point  global_batch_size     lr  seeds      F1  +/- 95%    loss  steps  failed",
        "    4                 16  0.003    2/2  0.7500   0.6353  0.1000      4       0",
        "    2                  8  0.003    2/2  0.7500   0.6353  0.5000      4       0",
        "    3                 16  0.001    2/2  0.6000   0.0000  0.5000      4       0",
        "    1                  8  0.001    2/2  0.5500   0.6353  0.5000      4       0",
        "    5                 64  0.001    1/2  0.9000        -  0.5000      4       1",
        "    6                 64  0.003    0/2       -        -       -      -       0",
        "note: the best optimizer.lr is the largest tried (0.003): try larger ones",
        "note: 2 of 12 runs have no scores: not trained yet, or failed under Slurm",
        "note: point 5: 1 of 2 runs failed: the loss of optimizer step 3 is nan: training stops",
    ]


def test_the_results_are_a_file(half_done: Sweep) -> None:
    results = read_results(half_done)
    write_results(half_done, results)
    tree = json.loads((half_done.folder / "sweep.json").read_text())
    assert (tree["format_version"], tree["split"], len(tree["points"])) == (1, "eval", 6)
    second, first = tree["points"][0], tree["points"][4]
    assert first["values"] == {"batch.global_batch_size": 64, "optimizer.lr": 0.001}
    assert first["f1"] == {"mean": 0.9, "half_width_95": None}
    assert first["failed"] == [
        {
            "seed": 2,
            "name": "global_batch_size=64,lr=0.001,seed=2",
            "exit_code": 2,
            "message": "the loss of optimizer step 3 is nan: training stops",
        }
    ]
    assert second["f1"]["half_width_95"] == pytest.approx(12.706 * 0.05, rel=1e-9)
    assert [(run["seed"], run["f1"], run["steps"]) for run in second["runs"]] == [(1, 0.7, 4), (2, 0.8, 4)]
    assert tree["points"][5]["unfinished"] == [f"global_batch_size=64,lr=0.003,seed={seed}" for seed in (1, 2)]


def test_the_largest_stable_learning_rate_is_named(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path, '[grid]\n"optimizer.lr" = [1e-4, 1e-3, 3e-3, 1e-2]\n', "seeds = [1, 2]"))
    # The second seed of 3e-3 has collapsed, one of 1e-2 has failed, and the other has not.
    for point, f1s in zip(sweep.points, ((0.5, 0.6), (0.8, 0.8), (0.75, 0.3), (0.6, None)), strict=True):
        for run, f1 in zip(point.runs, f1s, strict=True):
            if f1 is not None:
                finish(run, f1, 0.5, {4: f1})
    Failures().record(sweep.folder, sweep.points[3].runs[1].name, Failure(exit_code=2, message="nan: training stops"))
    (said,) = [note for note in notes(sweep, read_results(sweep)) if "stable" in note]
    assert said == (
        "note: adamw was stable up to a learning rate of 0.001; at 0.003 runs diverged or ended below 0.5 of the best "
        "F1; optimizer.largest_stable_lr = 0.001 warns later runs"
    )


def test_low_scores_of_small_learning_rates_and_failures_of_another_kind_are_no_collapse(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path, '[grid]\n"optimizer.lr" = [1e-6, 1e-4, 1e-3]\n'))
    assert not any("stable" in note for note in notes(sweep, read_results(sweep)))
    for point, f1 in zip(sweep.points, (0.1, 0.8, None), strict=True):
        if f1 is not None:
            finish(point.runs[0], f1, 0.5, {4: f1})
    Failures().record(sweep.folder, sweep.points[2].runs[0].name, Failure(exit_code=2, message="no space left"))
    assert not any("stable" in note for note in notes(sweep, read_results(sweep)))


def test_there_is_no_note_of_an_edge_within_the_grid(tmp_path: Path) -> None:
    grid = '[grid]\n"optimizer.lr" = [1e-4, 1e-3, 1e-2]\noptimizer.name = ["adamw", "lamb"]\nmodel.dropout = [0.1]\n'
    sweep = read_sweep(write(tmp_path, grid))
    (note,) = notes(sweep, read_results(sweep))
    assert note == "note: 6 of 6 runs have no scores: not trained yet, or failed under Slurm"
    for run in sweep.runs:
        finish(run, 0.9 if run.settings.optimizer.lr == 1e-3 else 0.5)
    assert list(notes(sweep, read_results(sweep))) == []


def drawing(path: Path) -> tuple[list[str], list[list[float]], list[int]]:
    """The texts of a figure, where the points of each line are across, and the number of bars of each."""
    root = ElementTree.parse(path).getroot()
    assert root.tag == f"{SVG}svg"
    groups = {str(group.get("id")): group for group in root.iter(f"{SVG}g")}
    lines: list[list[float]] = []
    bars: list[int] = []
    while (line := groups.get(f"line-{len(lines)}")) is not None:
        lines.append([float(str(mark.get("x"))) for mark in line.iter(f"{SVG}use")])
        bars.append(sum("L" in str(path.get("d")) for path in groups[f"bars-{len(bars)}"].iter(f"{SVG}path")))
    return [text.text or "" for text in root.iter(f"{SVG}text")], lines, bars


def test_figures_show_every_point(half_done: Sweep) -> None:
    draw_figures(half_done, read_results(half_done))
    texts, lines, bars = drawing(half_done.folder / "sweep.svg")
    assert {"8", "16", "64", "lr = 0.001", "lr = 0.003", "batch.global_batch_size (logarithmic)"} <= set(texts)
    assert [len(line) for line in lines] == [3, 2]
    assert sum(bars) == 4  # of the points with two seeds
    # On a logarithmic axis 16 lies a third of the way from 8 to 64.
    x8, x16, x64 = lines[0]
    assert (x16 - x8) / (x64 - x8) == pytest.approx(1 / 3, abs=1e-3)
    texts, lines, _ = drawing(half_done.folder / "curves.svg")
    assert {"optimizer steps", "global_batch_size = 64, lr = 0.001"} <= set(texts)
    # The last has one seed, with scores at two steps; the seeds of the others have one step in common.
    assert [len(line) for line in lines] == [1, 1, 1, 1, 2]


def test_a_figure_without_numbers_is_not_drawn(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path, '[grid]\n"optimizer.name" = ["adamw", "lamb"]\n'))
    sweep.folder.mkdir()
    (sweep.folder / "sweep.svg").write_text("of an earlier grid")
    draw_figures(sweep, read_results(sweep))
    assert list(sweep.folder.iterdir()) == []
    finish(sweep.runs[0], 0.5)
    draw_figures(sweep, read_results(sweep))
    texts, *_ = drawing(sweep.folder / "curves.svg")
    assert "name = adamw" in texts
    assert not (sweep.folder / "sweep.svg").exists()


def test_runs_of_other_settings_are_refused(tmp_path: Path) -> None:
    first = read_sweep(write(tmp_path, GRID))
    finish(first.runs[0], 0.5)
    checkpoint(first.runs[1].folder, 3)  # a run that was interrupted
    (first.runs[1].folder / "settings.toml").write_text(first.runs[1].settings.to_toml())
    assert len(read_results(first)) == 4
    shared = "[settings.data]\neval = 0.5\n[settings.run]\nlog_every = 1\n"
    other = read_sweep(write(tmp_path, GRID, "", shared))
    with pytest.raises(CheckpointError) as caught:
        read_results(other)
    text = str(caught.value)
    for run in first.runs[:2]:
        assert f"{run.folder} was trained with other settings: data.eval = 0.25 there, 0.5 here; give another" in text


def test_a_failure_is_recorded_until_the_run_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "failed.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"failed.json: cannot be read: .*; remove it, and"):
        Failures.of(tmp_path)
    (tmp_path / "failed.json").unlink()
    two = Failures.of(tmp_path).record(tmp_path, "a", Failure(exit_code=2, message="m"))
    two = two.record(tmp_path, "b", Failure(exit_code=70, message="n"))
    assert Failures.of(tmp_path) == two
    assert two.record(tmp_path, "a", None) == Failures.of(tmp_path) == Failures(runs={"b": two.runs["b"]})


TORCHRUN = """
E1130 torch/distributed/elastic/multiprocessing/api.py:984] failed (exitcode: 1) local_rank: 0 (pid: 7) of binary: p
============================================================
layoutner.__main__ FAILED
------------------------------------------------------------
Failures:
[1]:
  exitcode  : 1 (pid: 8)
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  exitcode  : {code} (pid: 7)
  error_file: <N/A>
============================================================
"""


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("step 1\nlayoutner: error: the loss is nan\n", "the loss is nan"),
        ("layoutner: error: two:\n  - one\n  - other\nmore\n", "two: - one - other"),
        ("layoutner: rank 1: error: no GPU\n" + TORCHRUN.format(code=2), "no GPU"),
        (
            "Traceback (most recent call last):\n  File\nKeyError: 'x'\nlayoutner: this is a bug of layoutner 1: ...\n",
            "KeyError: 'x'",
        ),
        ("Segmentation fault\n\n", "Segmentation fault"),
        ("", ""),
    ],
)
def test_the_error_of_a_run_is_found_in_its_log(text: str, error: str) -> None:
    assert error_in(text) == error


@pytest.mark.parametrize("code", [75, -9, 2])
def test_the_exit_code_behind_a_launcher_is_that_of_the_first_rank(code: int) -> None:
    assert exit_code_of_rank(TORCHRUN.format(code=code), 1) == code
    assert exit_code_of_rank("nothing", 1) == 1


def test_slots_have_gpus_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    first, second = slot_environments(2, 2, ["0", "1", "GPU-a", "3"])
    assert (first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]) == ("0,1", "GPU-a,3")
    with pytest.raises(SettingsError, match="--jobs 2 with --ranks 2 needs 4 GPUs, and 3 are visible"):
        slot_environments(2, 2, ["0", "1", "2"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (alone,) = slot_environments(1, 1, ())
    assert "CUDA_VISIBLE_DEVICES" not in alone
    assert alone["OMP_NUM_THREADS"] == str(available_cpus())
    assert slot_environments(64, 64, ())[0]["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert slot_environments(1, 1, ())[0]["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "0"], "--jobs 0: give at least 1"),
        (["--ranks", "2", "--report"], "--ranks 2: it is for runs on this machine"),
        (["--jobs", "2", "--slurm"], "--jobs 2: it is for runs on this machine"),
        (["--retry", "--report"], "--retry: it is for runs on this machine"),
        (["--slurm", "--report"], "not allowed with argument"),
        (["--report"], "no such folder: no run of this sweep has started"),
        ([], "data.train is missing"),
        (["--slurm"], "data.train is missing"),
    ],
)
def test_what_cannot_start_is_refused(options: list[str], message: str, tmp_path: Path, capsys: Say) -> None:
    code, out, err = call(capsys, "sweep", write(tmp_path, GRID), *options)
    assert (code, out) == (2, "")
    assert message in err
    assert list(tmp_path.rglob("*.toml")) == [tmp_path / "sweep.toml"]


def test_a_launcher_is_refused(tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = call(capsys, "sweep", write(tmp_path, GRID))
    assert (code, "call it without a launcher, with --ranks N" in err) == (2, True)


@pytest.fixture
def real(train_arguments: Arguments, tmp_path: Path) -> Callable[..., Path]:
    """Writes the file of a sweep whose runs can be trained, of three steps each."""

    def file(text: str, top: str = "", **more: object) -> Path:
        # Without clipping, so that a run can diverge.
        values = {"schedule__max_steps": 3, "data__eval": 0.25, "optimizer__max_grad_norm": 0, **more}
        arguments = train_arguments(tmp_path / "unused", **values)
        tree: dict[str, dict[str, str]] = {}
        for argument in arguments:
            name, _, value = argument.removeprefix("--").partition("=")
            section, _, key = name.partition(".")
            tree.setdefault(section, {})[key] = value
        del tree["run"]["output_dir"]
        shared = "".join(
            f"[settings.{section}]\n" + "".join(f'{key} = "{value}"\n' for key, value in values.items())
            for section, values in tree.items()
        )
        return write(tmp_path, text, top, shared)

    return file


def steps(run: Path) -> list[int]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


def test_a_list_for_slurm_names_what_is_left(real: Callable[..., Path], capsys: Say) -> None:
    file = real('[grid]\n"optimizer.lr" = [1e-3, 3e-3, 1e-2]\n')
    sweep = read_sweep(file)
    finish(sweep.runs[1], 0.5)
    Failures().record(sweep.folder, sweep.runs[2].name, Failure(exit_code=2, message="m"))
    code, out, err = call(capsys, "sweep", file, "--slurm")
    assert (code, err) == (0, f"2 of 3 runs to train in {sweep.folder}\n")
    array = Path(out.removesuffix("\n"))
    left = [sweep.runs[0], sweep.runs[2]]
    assert array.read_text() == "".join(f"{run.settings_file}\n" for run in left)
    assert [run.settings_file.read_text() for run in left] == [run.settings.to_toml() for run in left]
    assert not sweep.runs[1].settings_file.exists()
    # A list that jobs may still read stays as it is.
    finish(sweep.runs[0], 0.5)
    assert call(capsys, "sweep", file, "--slurm")[1] != out
    assert len(array.read_text().splitlines()) == 2


def test_two_sweeps_do_not_share_a_folder(real: Callable[..., Path], capsys: Say) -> None:
    file = real('[grid]\n"optimizer.lr" = [1e-3]\n')
    sweep = read_sweep(file)
    sweep.folder.mkdir()
    with Lock(sweep.folder / ".lock"):
        code, _, err = call(capsys, "sweep", file)
    assert (code, "another sweep is at work there: wait for its end" in err) == (2, True)
    # Nor does a run that a killed sweep has left, with the sweep that goes on.
    (run,) = sweep.runs
    run.folder.mkdir()
    with Lock(run.folder / ".lock"):
        code, _, err = call(capsys, "sweep", file)
    assert (code, "another run is writing there" in err) == (2, True)
    assert not run.log.exists()


class Forked:
    """What `subprocess.Popen` is to a sweep, but forked off a process that has imported torch: it starts at once."""

    def __init__(self, command: list[str], stdout: BinaryIO, env: dict[str, str], **_: object) -> None:
        self._forks = Forks(["layoutner", *command[command.index("layoutner") + 1 :]])
        self._log = Path(stdout.name)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        (process,) = self._forks.processes
        if self.returncode is None and process.exitcode is not None:
            with self._log.open("a") as log:
                log.write("".join(self._forks.text()))
            self._forks.__exit__(None, None, None)
            self.returncode = process.exitcode
        return self.returncode

    def terminate(self) -> None:
        self._forks.kill(0, signal.SIGTERM)


@pytest.mark.parametrize("process", [Forked, pytest.param(subprocess.Popen, marks=pytest.mark.slow)])
def test_a_sweep_trains_what_is_missing(
    process: object, real: Callable[..., Path], capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layoutner.sweeps.processes.subprocess.Popen", process)
    grid = '[grid]\n"optimizer.lr" = [{}]\n'
    file = real(grid.format("1e-3, 3e-3"))
    folder = file.parent / "runs"
    code, out, err = call(capsys, "sweep", file)
    assert code == 0, out + err
    names = [f"lr={lr},seed=42" for lr in ("0.001", "0.003")]
    scores = [json.loads((folder / name / "scores.json").read_text()) for name in names]
    assert [found["split"] for found in scores] == ["eval", "eval"]
    lines = untimed(out).splitlines()
    assert lines[0] == f"2 of 2 runs to train in {folder}"
    assert lines[1] == f"[1/2] {names[0]}: starts"
    assert lines[2].startswith(f"[1/2] {names[0]}: F1 {scores[0]['f1']:.4f} loss {scores[0]['loss']:.4f} after ")
    best = max((0, 1), key=lambda number: (scores[number]["f1"], -scores[number]["loss"]))
    assert lines[5].split() == ["point", "lr", "seeds", "F1", "+/-", "95%", "loss", "steps"]
    assert lines[6].split()[:4] == [str(best + 1), ("0.001", "0.003")[best], "1/1", f"{scores[best]['f1']:.4f}"]
    files = [f"{name}.{ending}" for name in names for ending in ("toml", "log")]
    for name in ("sweep.json", "sweep.svg", "curves.svg", *files):
        assert (folder / name).is_file(), name
    # Again: nothing is trained.
    before = {path: path.stat().st_mtime_ns for name in names for path in (folder / name).rglob("*")}
    code, again, _ = call(capsys, "sweep", file)
    assert (code, untimed(again).splitlines()[0]) == (0, f"0 of 2 runs to train in {folder}")
    assert untimed(again).splitlines()[1:] == lines[5:]
    # A point more: only it is trained. It diverges, which is not hidden, and not tried again.
    file = real(grid.format("1e-3, 3e-3, 1e30"))
    code, out, err = call(capsys, "sweep", file)
    assert code == 2
    assert [line for line in untimed(out).splitlines() if line.endswith(": starts")] == [
        "[1/1] lr=1e+30,seed=42: starts"
    ]
    said = "the (loss|gradient) of optimizer step [23] is "
    assert re.search(rf"runs failed, and --retry tries them again: lr=1e\+30,seed=42: {said}.*seed=42.log\)", err)
    assert re.search(rf"^note: point 3: 1 of 1 runs failed: {said}", out, re.MULTILINE)
    code, out, _ = call(capsys, "sweep", file)
    assert (code, untimed(out).splitlines()[0]) == (
        0,
        f"0 of 3 runs to train in {folder}; 1 failed before, and --retry tries them again",
    )
    assert {path: path.stat().st_mtime_ns for name in names for path in (folder / name).rglob("*")} == before
    # And the table alone.
    code, report, _ = call(capsys, "sweep", file, "--report")
    assert (code, report.splitlines()) == (0, out.splitlines()[1:])


def start(file: Path, *options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "layoutner", "sweep", str(file), *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[str]"]]:
    """Sweeps that a test has started; what is left of them at its end is asked to end."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.terminate()
        process.communicate()


def wait_for_step(run: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + HANGS_S
    while not any(step >= 3 for step in steps(run)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "number"), [(["--jobs", 2], signal.SIGINT), (["--ranks", 2], signal.SIGTERM)])
def test_a_sweep_that_is_stopped_goes_on(
    options: list[object],
    number: int,
    real: Callable[..., Path],
    started: list["subprocess.Popen[str]"],
    capsys: Say,
) -> None:
    grid = '[grid]\n"optimizer.lr" = [1e-3, 3e-3]\n'
    file = real(grid, schedule__max_steps=300, run__save_every=0, run__eval_every=0)
    sweep = read_sweep(file)
    jobs = 2 if "--jobs" in options else 1
    started.append(start(file, *options))
    for run in sweep.runs[:jobs]:
        wait_for_step(run.folder, started[0])
    started[0].send_signal(number)
    out, err = started[0].communicate(timeout=HANGS_S)
    assert started[0].returncode == 75, out + err
    assert f"{signal.Signals(number).name}: the sweep has stopped; the same command goes on from there" in err
    interrupted = out.count(": interrupted after ")
    assert 1 <= interrupted <= jobs  # one may have ended before the other has begun
    assert f"{signal.Signals(number).name}: asking {interrupted} run(s) to save" in out
    saved = {run: [path.name for path in (run.folder / "checkpoints").glob("step-*")] for run in sweep.runs[:jobs]}
    assert all(len(names) == 1 for names in saved.values())
    assert not (sweep.folder / "failed.json").exists()
    started.append(start(file, *options))
    out, err = started[1].communicate(timeout=HANGS_S)
    assert started[1].returncode == 0, out + err
    for run in sweep.runs:
        assert steps(run.folder) == list(range(1, 301))
    logs = [
        (run.log.read_text(), f"resumed from {run.folder}/checkpoints/{name}") for run in saved for name in saved[run]
    ]
    assert sum(text in log for log, text in logs) == interrupted
    world_sizes = [json.loads((run.folder / "environment.json").read_text())["world_size"] for run in sweep.runs]
    assert world_sizes == [2 // jobs] * 2
    code, table_alone, _ = call(capsys, "sweep", file, "--report")
    assert (code, out.endswith(table_alone)) == (0, True)


def pid_of(run: Run) -> int:
    """The process that trains a run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(run.settings_file).encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
    (pid,) = found
    return pid


@pytest.mark.slow
def test_a_run_that_something_else_ends_is_no_failure(
    real: Callable[..., Path], started: list["subprocess.Popen[str]"], capsys: Say
) -> None:
    file = real('[grid]\n"optimizer.lr" = [1e-3, 1e30]\n', schedule__max_steps=2000)
    first, second = read_sweep(file).runs
    started.append(start(file))
    wait_for_step(first.folder, started[0])
    os.kill(pid_of(first), signal.SIGKILL)
    out, err = started[0].communicate(timeout=HANGS_S)
    # The other run fails, and so does the sweep.
    assert started[0].returncode == 2, out + err
    assert f"[1/2] {first.name}: interrupted after " in out
    assert list(Failures.of(file.parent / "runs").runs) == [second.name]
    # Without the first run: the second is tried again, and fails again.
    file = real('[grid]\n"optimizer.lr" = [1e30]\n', schedule__max_steps=2000)
    code, out, _ = call(capsys, "sweep", file, "--retry")
    assert (code, f"[1/1] {second.name}: starts" in out) == (2, True)
