"""`layoutner noise-scale`: what it prints, that it writes nothing, and that ranks do not matter."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from layoutner.runs.noise_scale import NoiseScale
from tests.builders.forks import fork
from tests.builders.processes import call

Arguments = Callable[..., list[str]]
STEP = re.compile(r"^step \d+/\d+ S (\S+) \|G\|\^2 (\S+)$", re.MULTILINE)


def measured(output: str) -> list[list[float]]:
    """S and |G|^2 of each step."""
    return [[float(value) for value in found] for found in STEP.findall(output)]


@pytest.fixture(scope="module")
def trained(train_arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("noise") / "run"
    done = fork(["layoutner", "train", *train_arguments(run, schedule__max_steps=2)])
    assert done.returncode == 0, done.stderr[-3000:]
    return run


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file."""
    found = {str(path): path.stat() for path in folder.rglob("*")}
    return {path: (status.st_size, status.st_mtime_ns) for path, status in found.items()}


def test_it_measures_a_checkpoint_and_writes_nothing(trained: Path, train_arguments: Arguments) -> None:
    before = files(trained.parent)
    # Another batch and optimizer than those of the run, and trackers that must not start.
    more = {"batch__global_batch_size": 6, "optimizer__name": "lars", "wandb__mode": "offline", "run__resume": "must"}
    arguments = [one for one in train_arguments(trained, **more) if "max_steps" not in one]
    done = fork(["layoutner", "noise-scale", *arguments, "--steps", 4])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "4 steps after step 2, in" in done.stdout
    assert len(measured(done.stdout)) == 4
    variance, squared_norm = np.mean(measured(done.stdout), axis=0)
    assert re.search(r"mean over 4 steps of 6 windows: variance of a window's gradient S = (\S+),", done.stdout)
    if squared_norm > 0:
        (scale,) = re.findall(r"The noise scale is about (\S+) windows \(95% interval", done.stdout)
        assert float(scale) == pytest.approx(variance / squared_norm, rel=0.06)  # of two digits
        assert "This holds at this point of the training" in done.stdout
    else:
        assert "|G|^2 is not above 0" in done.stdout
    assert files(trained.parent) == before


def test_a_network_before_training(train_arguments: Arguments, tmp_path: Path) -> None:
    arguments = train_arguments(tmp_path / "run", schedule__max_steps=1, deepspeed__zero_stage=3)
    done = fork(["layoutner", "noise-scale", *arguments, "--steps", 3])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "3 steps before training" in done.stdout
    assert len(measured(done.stdout)) == 3
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ranks_and_micro_batches_measure_the_same_noise(train_arguments: Arguments, tmp_path: Path) -> None:
    found = {}
    # With micro-batches of one window, each rank has 4 of 8, in the order that one rank has them.
    for ranks in (0, 2):
        given = train_arguments(tmp_path / "run", batch__micro_batch_size=1, model__dropout=0.1)
        done = fork(["layoutner", "noise-scale", *given, "--steps", 3], ranks=ranks)
        assert done.returncode == 0, done.stderr[-3000:]
        found[ranks] = measured(done.stdout)
    assert len(found[0]) == 3
    assert np.array(found[2]) == pytest.approx(np.array(found[0]), rel=2e-3)  # of four digits


def test_what_is_said_follows_from_the_numbers() -> None:
    said = str(NoiseScale(np.array([110.0, 130.0, 120.0]), np.array([1.9, 2.0, 2.1]), 20))
    assert (
        "3 steps of 20 windows: variance of a window's gradient S = 120, squared norm of the gradient |G|^2 = 2\n"
        in said
    )
    assert "The noise scale is about 60 windows (95% interval 57 to 65)." in said
    # 60 / (60 + 20); (1 + 60/40) / (1 + 60/20)
    assert "At the global batch of 20, 75% of a step's squared gradient norm is noise." in said
    assert "A batch of 40 would take about 62% of the steps and 125% of the windows" in said


def test_an_interval_without_an_upper_end() -> None:
    noise = NoiseScale(np.array([100.0] * 4), np.array([-3.0, 1.0, 2.0, 4.0]), 20)
    assert noise.windows == 100
    low, high = noise.interval
    assert 25 <= low < 60
    assert high == float("inf")
    assert re.search(r"about 100 windows \(95% interval \d+ or more\)", str(noise))


def test_a_gradient_that_is_lost_in_its_noise() -> None:
    noise = NoiseScale(np.array([100.0, 100.0]), np.array([-3.0, 1.0]), 20)
    said = str(noise)
    assert noise.windows == float("inf")
    assert "|G|^2 is not above 0" in said
    assert "give more --steps, or a larger batch.global_batch_size" in said
    assert "noise scale" not in said


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        low, high = NoiseScale(rng.normal(300, 60, 20), rng.normal(2, 1, 20), 20).interval
        held += low <= 150 <= high
    assert 85 <= held <= 99


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--steps", 1], "--steps 1: an interval takes at least two"),
        (["--run.resume", "must"], "holds no complete checkpoint"),
        (["--run.resume", "nowhere"], "nowhere: not a complete layoutner checkpoint"),
        (["--batch.global_batch_size", 1], "the noise in a gradient shows between two windows"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    more: list[object], said: str, train_arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = call(capsys, "noise-scale", *train_arguments(tmp_path / "run"), *more)
    assert code == 2
    assert said in error


def test_a_checkpoint_of_another_network_is_refused(trained: Path, train_arguments: Arguments) -> None:
    given = train_arguments(trained, run__resume="must", data__ignore_types="TOTAL")
    done = fork(["layoutner", "noise-scale", *given])
    assert done.returncode == 2
    assert "is of another network than these settings: preprocessing = " in done.stderr
