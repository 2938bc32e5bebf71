"""A rank that is lost, hangs or sees other files ends the whole job soon, with a message that names it."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from layoutner.errors import RanksDisagree
from layoutner.training.preflight import _require_same
from tests.builders.forks import BY_RANK, fork
from tests.builders.processes import HANGS_S, ROOT, free_port, launch

Arguments = Callable[..., list[str]]
WORKER = ROOT / "tests" / "workers" / "failing.py"
LAUNCHERS = {
    "torchrun": ["torchrun", "--nproc-per-node", "2", "--master-port"],
    "deepspeed": ["deepspeed", "--num_gpus", "2", "--master_port"],
}


class Job:
    """Two ranks under a launcher, their output in files."""

    def __init__(self, launcher: str, fault: str, arguments: list[str], folder: Path) -> None:
        tool, *options = LAUNCHERS[launcher]
        command = [str(Path(sys.executable).parent / tool), *options, str(free_port()), str(WORKER), fault, "train"]
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        self.run, self._errors = folder / "run", folder / "stderr"
        self.began = time.monotonic()
        with self._errors.open("w") as errors, (folder / "stdout").open("w") as out:
            self.process = subprocess.Popen(
                [*command, *arguments], cwd=ROOT, env=environment, stdout=out, stderr=errors, start_new_session=True
            )

    def ranks(self) -> dict[int, int]:
        """Rank -> process id, of this job's ranks that live."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "environ").read_bytes().decode().split("\0")
                rank = next((word for word in words if word.startswith("RANK=")), None)
                mine = f"--run.output_dir={self.run}" in (entry / "cmdline").read_bytes().decode().split("\0")
                if rank and mine:
                    found[int(rank.removeprefix("RANK="))] = int(entry.name)
        return found

    def wait_for_checkpoint(self) -> None:
        until = time.monotonic() + HANGS_S
        while not list(self.run.glob("checkpoints/step-*")):
            assert self.process.poll() is None, self.errors()
            assert time.monotonic() < until, self.errors()
            time.sleep(0.2)

    def ends(self) -> float:
        """Seconds until it ended, all its processes with it."""
        start = time.monotonic()
        assert self.process.wait(timeout=HANGS_S) != 0
        seconds = time.monotonic() - start
        assert self.ranks() == {}
        return seconds

    def errors(self) -> str:
        return self._errors.read_text()

    def message(self) -> str:
        """The one error that layoutner said."""
        found = re.findall(r"layoutner: .*error: .*", self.errors())
        assert len(found) == 1, self.errors()
        return str(found[0])

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pid in self.ranks().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def job(train_arguments: Arguments, tmp_path: Path) -> Iterator[Callable[..., Job]]:
    jobs = []

    def start(launcher: str = "torchrun", fault: str = "none", **more: object) -> Job:
        values = {"schedule__max_steps": 100_000, "run__save_every": 5, "run__rank_timeout": 10, **more}
        jobs.append(Job(launcher, fault, train_arguments(tmp_path / "run", **values), tmp_path))
        return jobs[-1]

    yield start
    for one in jobs:
        one.end()


SLOW = [pytest.param(launcher, marks=pytest.mark.slow) for launcher in LAUNCHERS]


def end_of(launcher: str, fault: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Two ranks of `layoutner train`, with a fault of WORKER's, to their end."""
    if launcher == "forks":
        return fork([WORKER, fault, "train", *arguments], ranks=2)
    return launch([*LAUNCHERS[launcher], free_port(), WORKER, fault, "train", *arguments])


@pytest.mark.parametrize(
    ("launcher", "victim"),
    [
        ("torchrun", 1),
        pytest.param("deepspeed", 0, marks=pytest.mark.slow),
        pytest.param("torchrun", 0, marks=pytest.mark.slow),
        pytest.param("deepspeed", 1, marks=pytest.mark.slow),
    ],
)
def test_a_killed_rank(launcher: str, victim: int, job: Callable[..., Job]) -> None:
    one = job(launcher)
    one.wait_for_checkpoint()
    os.kill(one.ranks()[victim], signal.SIGKILL)
    print(f"MEASURED kill {launcher} {victim}: {one.ends():.1f} s")
    assert f"lost rank {victim}" in one.message()
    assert "it ended without an error message" in one.message()
    assert "/layoutner/training/loop.py" not in one.errors()  # no traceback of ours; torchrun shows one of its own


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_frozen_rank(launcher: str, victim: int, job: Callable[..., Job]) -> None:
    one = job(launcher)
    one.wait_for_checkpoint()
    os.kill(one.ranks()[victim], signal.SIGSTOP)
    print(f"MEASURED stop {launcher} {victim}: {one.ends():.1f} s")
    assert re.search(rf"rank {victim}\b.* has not answered for \d+ s", one.message())


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "limit"), [("torchrun", 5), ("deepspeed", 5), ("torchrun", 45)])
def test_a_rank_that_hangs_in_reading(launcher: str, limit: int, job: Callable[..., Job]) -> None:
    one = job(launcher, "hang", run__rank_timeout=limit, run__save_every=1)
    one.wait_for_checkpoint()
    print(f"MEASURED hang {launcher} {limit}: {one.ends():.1f} s")
    found = re.search(r"rank 1 on host \S+ has been reading the windows of step 2 for (\d+) s", one.message())
    assert found, one.message()
    assert int(found[1]) >= limit
    assert one.message().startswith("layoutner: error: rank 0: ")


@pytest.mark.slow
def test_a_rank_that_fails_is_quoted(train_arguments: Arguments, tmp_path: Path) -> None:
    arguments = train_arguments(tmp_path / "run", schedule__max_steps=100_000, run__rank_timeout=10)
    done = end_of("forks", "raise", arguments)
    assert done.returncode != 0
    (said,) = re.findall(r"layoutner: .*error: .*", done.stderr)
    assert re.search(r"rank 0: lost rank 1 on host \S+: KeyError: 'no such word'", said)


def test_ranks_that_read_other_files(train_arguments: Arguments, forms: Path, tmp_path: Path) -> None:
    """The same path, but other pages behind it, as where a node has an old copy."""
    for rank in (0, 1):
        shutil.copytree(forms, tmp_path / str(rank) / "data")
    page = sorted((tmp_path / "1" / "data" / "training_data").rglob("*.json"))[0]
    page.write_text(page.read_text().replace('"words": [{"text": "', '"words": [{"text": "9', 1))
    arguments = train_arguments(tmp_path / "run", data__train="data")
    done = fork(["-c", BY_RANK, tmp_path, "train", *arguments], ranks=2)
    assert done.returncode != 0
    found = re.findall(r"layoutner: error: (.*)", done.stderr)
    assert len(found) == 1, done.stderr
    assert found[0].startswith("the ranks see different files: rank 1: training windows = ")
    assert not (tmp_path / "run").exists()


OTHER_SETTINGS = """
import os, sys
from layoutner.cli import main
os.environ["LAYOUTNER_OPTIMIZER__LR"] = f"0.{int(os.environ['RANK']) + 1}"
main(sys.argv[1:])
"""


def test_ranks_with_other_settings(train_arguments: Arguments, tmp_path: Path) -> None:
    arguments = [a for a in train_arguments(tmp_path / "run") if not a.startswith("--optimizer.lr")]
    done = fork(["-c", OTHER_SETTINGS, "train", *arguments], ranks=2)
    assert done.returncode != 0
    assert "versions or settings: rank 1: optimizer.lr = 0.2 instead of 0.1" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_odd_rank_is_the_one_that_differs_from_most() -> None:
    rows = [{"torch": "2.12"}, {"torch": "2.13"}, {"torch": "2.13"}]
    with pytest.raises(RanksDisagree, match=r'versions: rank 0: torch = "2.12" instead of "2.13":'):
        _require_same("versions", rows)
    _require_same("versions", rows[1:])


def test_ranks_whose_layoutner_has_other_settings() -> None:
    """As where a node has an older version: it lacks a setting, or has one that is gone."""
    new, old = {"layoutner": "2", "run.new": 3}, {"layoutner": "1", "run.old": 4}
    for rows in ([new, new, old], [old, new, new]):
        odd = rows.index(old)
        with pytest.raises(RanksDisagree) as found:
            _require_same("versions or settings", rows)
        said = str(found.value)
        assert f'rank {odd}: layoutner = "1" instead of "2"' in said
        assert f"rank {odd}: run.new = null instead of 3" in said
        assert f"rank {odd}: run.old = 4 instead of null" in said


def test_the_table_before_a_run(train_arguments: Arguments, tmp_path: Path) -> None:
    done = end_of("forks", "none", train_arguments(tmp_path / "run", schedule__max_steps=1))
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("rank  host"))
    rows = [dict(zip(lines[start].split(), line.split(), strict=True)) for line in lines[start + 1 : start + 3]]
    assert [row.pop("rank") for row in rows] == ["0", "1"]
    assert rows[0] == rows[1]
    assert (rows[0]["device"], rows[0]["threads"]) == ("cpu", "1")
    assert re.fullmatch("[0-9a-f]{12}", rows[0]["settings"])


def test_a_loss_that_is_not_finite_stops_all_ranks(train_arguments: Arguments, tmp_path: Path) -> None:
    more = {"optimizer__lr": 1e30, "optimizer__max_grad_norm": 0, "run__save_every": 1}
    done = end_of("forks", "none", train_arguments(tmp_path / "run", **more))
    assert done.returncode != 0
    for who in ("layoutner: error: ", "layoutner: rank 1: error: "):
        found = re.search(
            rf"^{who}the loss of optimizer step (\d+) is (?:nan|inf): training stops .* Windows: ([\d, ]+)\. "
            r"Documents: train-\d+, ",
            done.stderr,
            re.MULTILINE,
        )
        assert found, done.stderr
        assert len(set(found[2].split(", "))) == 8  # those of the step, all ranks
    assert "lost rank" not in done.stderr
    saved = sorted(folder.name for folder in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert saved[-1] == f"step-{int(found[1]) - 1:06d}"  # nothing was saved of that step


NOT_FINITE = {"optimizer__lr": 1e30, "optimizer__max_grad_norm": 0}


@pytest.mark.parametrize("launcher", ["forks", *SLOW])
@pytest.mark.parametrize(
    "more",
    [
        pytest.param(NOT_FINITE, id="watched"),
        pytest.param({**NOT_FINITE, "run__rank_timeout": 0}, id="unwatched", marks=pytest.mark.slow),
    ],
)
def test_no_rank_ends_before_rank_0_has_said_the_whole_message(
    more: dict[str, object], launcher: str, train_arguments: Arguments, tmp_path: Path
) -> None:
    """The launcher ends rank 0, too, when another rank ends."""
    done = end_of(launcher, "late", train_arguments(tmp_path / "run", **more))
    assert done.returncode != 0
    said = "the loss of optimizer step .*: training stops before the weights are corrupted.* Documents: train-"
    assert len(re.findall(rf"^layoutner: error: {said}", done.stderr, re.MULTILINE)) == 1, done.stderr
    assert len(re.findall(rf"^layoutner: rank 1: error: {said}", done.stderr, re.MULTILINE)) == 1, done.stderr
    assert "lost rank" not in done.stderr


@pytest.mark.parametrize("launcher", ["forks", *SLOW])
def test_a_rank_that_fails_before_it_has_joined_leaves_rank_0_time_to_say_it(
    launcher: str, train_arguments: Arguments, tmp_path: Path
) -> None:
    more = {"optimizer__lr": "fast", "batch__micro_batch_size": "few"}
    done = end_of(launcher, "dawdle", train_arguments(tmp_path / "run", **more))
    assert done.returncode != 0
    assert "layoutner: error: settings cannot be used:\n  - the command line: batch.micro_batch_size = " in done.stderr
    assert "  - the command line: optimizer.lr = 'fast'" in done.stderr
    assert "layoutner: rank 1: error: settings cannot be used: - the command line: batch.micro_batc" in done.stderr


class SilentStore:
    """A store in which nobody but this rank says anything; or that is gone."""

    def __init__(self, gone: bool = False) -> None:
        self.gone, self.keys = gone, set[str]()

    def set(self, key: str, _: str) -> None:
        if self.gone:
            raise RuntimeError("Connection reset by peer")
        self.keys.add(key)

    def check(self, keys: list[str]) -> bool:
        return all(key in self.keys for key in keys)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_does_not_wait_for_ever(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from layoutner.distributed import ranks

    monkeypatch.setattr(ranks, "FAILS_WITHIN_S", {True: 0.3, False: 0.3})
    monkeypatch.setattr(ranks, "REPORTS_WITHIN_S", 1.0)
    for store, least, others in ((SilentStore(), 0.3, []), (SilentStore(True), 0, []), (SilentStore(), 1.0, ["fails"])):
        store.keys |= {f"layoutner/{what}/{1 - rank}" for what in others}
        start = time.monotonic()
        ranks.Ranks(rank, 2, torch.device("cpu"), store).part()
        assert time.monotonic() - start >= least
    ranks.Ranks(0, 1, torch.device("cpu")).part()  # one that is alone has nobody to wait for


@pytest.mark.parametrize(
    ("more", "warnings", "last"),
    [
        # The first step is fine; each of the others overflows and halves the scale: 256, 128, 64 and the floor, 32.
        ({"precision__initial_scale_power": 8, "precision__min_loss_scale": 32}, ["3"], "at its minimum of 32"),
        pytest.param({"precision__loss_scale": 8, "schedule__max_steps": 14}, ["10"], "", marks=pytest.mark.slow),
    ],
)
def test_fp16_that_overflows_again_and_again(
    more: dict[str, object], warnings: list[str], last: str, train_arguments: Arguments, tmp_path: Path
) -> None:
    values = {"precision__dtype": "fp16", "precision__hysteresis": 1, "deepspeed__zero_stage": 1, **more}
    values |= {"batch__micro_batch_size": 4, "schedule__max_steps": more.get("schedule__max_steps", 20)}
    done = end_of("forks", "overflow", train_arguments(tmp_path / "run", **values))
    assert re.findall(r"warning: step \d+: fp16 overflowed .*, (\d+) times in a row", done.stdout) == warnings
    assert "Use precision.dtype = bf16, or try a lower optimizer.lr" in done.stdout
    assert (done.returncode == 0) == (not last), done.stderr[-3000:]
    assert last in done.stderr
    assert "/layoutner/training/loop.py" not in done.stderr
