"""slurm/train.sh and slurm/sweep.sh on a real Slurm cluster of two nodes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders.forks import fork
from tests.builders.processes import HANGS_S, ROOT, call

Arguments = Callable[..., list[str]]
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
TWO_NODES = ["--nodes=2", "--cpus-per-task=1"]


def slurm(*command: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True, env=ENVIRONMENT, cwd=ROOT)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def nodes() -> int:
    """How many nodes answer; `.ci/run` starts a cluster where it can."""
    if shutil.which("sbatch") is None:
        pytest.skip("no Slurm (sbatch)")
    done = subprocess.run(["sinfo", "--noheader", "--Node"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no Slurm cluster answers (sinfo)")
    return len(done.stdout.splitlines())


@pytest.fixture(scope="module")
def two_nodes(nodes: int) -> None:
    if nodes < 2:
        pytest.skip(f"the Slurm cluster has {nodes} node, and this needs two")


class Job:
    """A submitted run."""

    def __init__(self, folder: Path, options: list[str], arguments: list[str]) -> None:
        self.log = folder / "job.log"
        command = ["sbatch", "--parsable", "--chdir", folder, f"--output={self.log}", *options]
        self.id = slurm(*command, ROOT / "slurm" / "train.sh", *arguments)

    def field(self, name: str) -> str:
        found = re.search(rf"\b{name}=(\S+)", slurm("scontrol", "show", "job", self.id))
        assert found is not None
        return found[1]

    def wait(self, *states: str, seconds: float = 200) -> str:
        deadline = time.monotonic() + seconds
        while (state := self.field("JobState")) not in states:
            assert time.monotonic() < deadline, f"job {self.id} is {state}\n{self.text()[-3000:]}"
            time.sleep(0.5)
        return state

    def wait_for_step(self, run: Path, step: int) -> None:
        deadline = time.monotonic() + HANGS_S
        while not any(row["step"] >= step for row in metrics(run)):
            assert time.monotonic() < deadline, self.text()[-3000:]
            assert self.field("JobState") in ("PENDING", "CONFIGURING", "RUNNING"), self.text()[-3000:]
            time.sleep(0.1)

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def submit(tmp_path: Path) -> Iterator[Callable[[list[str], list[str]], Job]]:
    jobs = []

    def submit_one(options: list[str], arguments: list[str]) -> Job:
        jobs.append(Job(tmp_path, options, arguments))
        return jobs[-1]

    yield submit_one
    for job in jobs:
        subprocess.run(["scancel", "--signal=KILL", "--full", job.id], capture_output=True, check=False)
        subprocess.run(["scancel", job.id], capture_output=True, check=False)


def metrics(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def ranks_of(run: Path) -> list[int]:
    """Process ids of the ranks that train this run, the main process of each first in line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"layoutner" in command and any(str(run).encode() in part for part in command):
            found.append(int(process.name))
    return found


@pytest.mark.usefixtures("two_nodes")
def test_a_job_trains_on_two_nodes(submit: Any, train_arguments: Arguments, forms: Path, tmp_path: Path) -> None:
    run = tmp_path / "a run"  # a space must survive the way through sbatch and srun
    job = submit(TWO_NODES, train_arguments(run, data__test=forms))
    job.wait("COMPLETED")
    assert json.loads((run / "environment.json").read_text())["world_size"] == 2
    assert json.loads((run / "scores.json").read_text())["split"] == "test"
    assert (tmp_path / f"layoutner-{job.id}-rank1.log").exists()


@pytest.mark.usefixtures("nodes")
def test_a_mistake_fails_the_job_and_is_said(submit: Any, train_arguments: Arguments, tmp_path: Path) -> None:
    job = submit(["--cpus-per-task=2"], train_arguments(tmp_path / "run", deepspeed__preset="zero9"))
    job.wait("FAILED")
    assert "deepspeed.preset = 'zero9': no such file or preset" in job.text()


@pytest.mark.slow
@pytest.mark.usefixtures("two_nodes")
def test_a_preempted_job_goes_on_as_if_nothing_had_happened(
    submit: Any, train_arguments: Arguments, tmp_path: Path
) -> None:
    settings = {"schedule__max_steps": 300, "model__dropout": 0.1, "run__save_every": 0, "precision__dtype": "fp32"}
    settings["run__overwrite"] = "true"  # of what another job has left, not of what this one has saved
    run, whole = tmp_path / "run", tmp_path / "whole"
    job = submit(TWO_NODES, train_arguments(run, **settings))
    job.wait_for_step(run, 5)
    slurm("scancel", "--signal=USR1", job.id)  # what --signal=USR1@120 sends before the time limit
    deadline = time.monotonic() + HANGS_S
    while job.field("Restarts") != "1" and time.monotonic() < deadline:
        time.sleep(0.5)
    saved = sorted(folder.name for folder in (run / "checkpoints").glob("step-*"))
    assert len(saved) == 1
    # Slurm keeps a requeued job back until the credentials of its first start have expired (cred_expire, 120 s unless
    # set). A StartTime=now would overtake that, and the second start would be refused with the first one's credential.
    job.wait("COMPLETED", seconds=HANGS_S)
    assert f"resumed from {run}/checkpoints/{saved[0]}" in job.text()
    assert "SIGUSR1: saved after step" in job.text()  # the log was appended to

    done = fork(["layoutner", "train", *train_arguments(whole, **settings)], ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    computed = ("step", "train/loss", "train/lr", "train/grad_norm")
    assert [[row[key] for key in computed] for row in metrics(run)] == [
        [row[key] for key in computed] for row in metrics(whole)
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("two_nodes")
def test_a_killed_rank_ends_the_job(submit: Any, train_arguments: Arguments, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = submit(TWO_NODES, train_arguments(run, schedule__max_steps=100_000))
    job.wait_for_step(run, 3)
    victims = [pid for pid in ranks_of(run) if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes() + b"\0"]
    os.kill(victims[0], signal.SIGKILL)
    job.wait("FAILED", seconds=HANGS_S)
    assert ranks_of(run) == []


@pytest.mark.slow
@pytest.mark.usefixtures("two_nodes")
def test_scancel_saves_and_ends(submit: Any, train_arguments: Arguments, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = submit(TWO_NODES, train_arguments(run, schedule__max_steps=100_000))
    job.wait_for_step(run, 3)
    slurm("scancel", job.id)
    job.wait("CANCELLED", seconds=HANGS_S)
    deadline = time.monotonic() + HANGS_S
    while ranks_of(run) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert ranks_of(run) == []
    assert list((run / "checkpoints").glob("step-*"))


@pytest.mark.slow
@pytest.mark.usefixtures("nodes")
def test_a_sweep_is_a_job_array(
    train_arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree: dict[str, list[str]] = {}
    for argument in train_arguments(tmp_path / "unused", data__eval=0.25):
        name, _, value = argument.removeprefix("--").partition("=")
        if name not in ("run.output_dir", "batch.global_batch_size"):
            section, _, key = name.partition(".")
            tree.setdefault(section, []).append(f'{key} = "{value}"')
    file, runs = tmp_path / "sweep.toml", tmp_path / "the runs"  # a space must survive the way to the job
    shared = [line for section, lines in tree.items() for line in (f"[settings.{section}]", *lines)]
    grid = '[grid]\n"batch.global_batch_size" = [4, 8]'
    file.write_text("\n".join([f'output_dir = "{runs}"', "seeds = [1]", *shared, grid]))
    # What the environment says is in the settings files; in the jobs it replaces nothing.
    monkeypatch.setitem(ENVIRONMENT, "LAYOUTNER_BATCH__GLOBAL_BATCH_SIZE", "2")
    monkeypatch.setitem(ENVIRONMENT, "LAYOUTNER_RUN__LOG_EVERY", "2")
    monkeypatch.setenv("LAYOUTNER_RUN__LOG_EVERY", "2")
    submit_all = [ROOT / "slurm" / "sweep.sh", file, "--parsable", "--wait", "--chdir", tmp_path, "--cpus-per-task=1"]
    slurm(*submit_all)
    logs = "".join(log.read_text() for log in tmp_path.glob("layoutner-*.log"))
    for size in (4, 8):
        run = runs / f"global_batch_size={size},seed=1"
        settings = tomllib.loads((run / "settings.toml").read_text())
        assert (settings["batch"]["global_batch_size"], settings["run"]["log_every"]) == (size, 2), logs
        assert "f1" in json.loads((run / "scores.json").read_text()), logs
    code, out, _ = call(capsys, "sweep", file, "--report")
    assert (code, out.count(" 1/1 ")) == (0, 2)
    assert slurm(*submit_all) == ""  # nothing is left
