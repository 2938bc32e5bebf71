"""`layoutner critical-batch`: branches of a checkpoint, and which batch they say is the largest that pays off."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from layoutner.planning.ramp import Ramp
from layoutner.runs.critical_batch import Branch, CriticalBatch
from tests.builders.forks import fork
from tests.builders.processes import call

Arguments = Callable[..., list[str]]


def of(*losses: float) -> CriticalBatch:
    return CriticalBatch(tuple(Branch(16 * 2**place, 1e-3, 8, loss) for place, loss in enumerate(losses)))


@pytest.mark.parametrize(
    ("losses", "windows"),
    [
        ((1.0, 1.005, 1.02), 32),  # 64 is 0.02 above 16
        ((1.0, 0.995, 1.004, 1.2), 64),
        ((1.0, 1.3, 1.0), 16),  # one that fails ends the search
        ((1.0, 0.9, 0.905), 64),
    ],
)
def test_the_largest_batch_that_is_nearly_as_good_as_every_smaller_one(losses: tuple[float, ...], windows: int) -> None:
    found = of(*losses)
    assert found.windows == windows
    assert f"The critical batch is about {windows} windows" in str(found)
    assert ("give larger --factors" in str(found)) == (windows == found.branches[-1].batch)


@pytest.fixture(scope="module")
def trained(train_arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("critical") / "run"
    arguments = train_arguments(run, schedule__max_steps=4, data__eval=0.25)
    done = fork(["layoutner", "train", *arguments])
    assert done.returncode == 0, done.stderr[-3000:]
    return run


def arguments_for(train_arguments: Arguments, run: Path, **more: object) -> list[str]:
    # The run goes on for 10 steps, so its learning rate after 4 of them is 0.6 of the peak.
    return train_arguments(
        run, schedule__max_steps=10, data__eval=0.25, batch__global_batch_size=8, run__resume="must", **more
    )


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [0, 2])
def test_branches_train_on_the_same_windows_and_write_nothing(
    ranks: int, trained: Path, train_arguments: Arguments
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    arguments = arguments_for(train_arguments, trained, optimizer__lr=1e-3)
    done = fork(["layoutner", "critical-batch", *arguments, "--factors", 1, 2, "--windows", 32], ranks=ranks)
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.findall(
        r"^batch (\d+), learning rate (\S+): dev loss (\S+) after (\d+) steps$", done.stdout, re.MULTILINE
    )
    # Of 18 windows an epoch, 10 are left of the second. Steps of 8, 2 | 8, 8, 2 | 8 or of 10 | 16, 2 | 16 windows.
    assert [(batch, lr, steps) for batch, lr, _, steps in found] == [("8", "0.0006", "6"), ("16", "0.000849", "4")]
    assert all(0 < float(loss) < 10 for _, _, loss, _ in found)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_branches_train_on_the_same_windows() -> None:
    # 24 windows an epoch; the run had 4 steps of 8, so a branch begins within the second epoch.
    for factor in (1, 2, 4):
        ramp = Ramp.of(8 * factor, [(0, 8), (4, 8 * factor)], 24)
        total = ramp.steps_until(ramp.trained(4) + 40)
        portions = [ramp.portion(step) for step in range(4, total)]
        trained = [(one.epoch, place) for one in portions for place in range(one.start, one.start + one.size)]
        assert trained[:40] == [(1, place) for place in range(8, 24)] + [(2, place) for place in range(24)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--factors", 2, 4], "--factors 2 4: give 1 and larger ones"),
        (["--windows", 0], "--windows 0: at least one window"),
    ],
)
def test_wrong_arguments_are_refused(
    more: list[object], said: str, train_arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = call(capsys, "critical-batch", *train_arguments(tmp_path / "run"), *more)
    assert (code, said in error) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"run__resume": "never"}, "branches from a checkpoint: give run.resume"),
        ({"optimizer__name": "lion"}, "optimizer = "),
        ({"data__eval": 0.25, "schedule__max_steps": 4}, "the learning rate is 0 after step 4"),
    ],
)
def test_what_cannot_be_branched_is_refused(
    more: dict[str, object], said: str, trained: Path, train_arguments: Arguments
) -> None:
    given = {"schedule__max_steps": 10, "data__eval": 0.25, "run__resume": "must", **more}
    done = fork(["layoutner", "critical-batch", *train_arguments(trained, **given), "--factors", 1, 2])
    assert done.returncode == 2
    assert said in done.stderr
