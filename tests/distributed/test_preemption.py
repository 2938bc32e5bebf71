"""A run that is asked to end saves first, on all ranks, and goes on later as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layoutner.distributed.preemption import SAME_REQUEST_S, SIGNALS, PreemptionGuard
from tests.builders.forks import Forks, fork
from tests.builders.processes import HANGS_S, ROOT, free_port

Arguments = Callable[..., list[str]]


def start(command: list[object]) -> subprocess.Popen[str]:
    tool, *arguments = map(str, command)
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [str(Path(sys.executable).parent / tool), *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def metrics(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def wait_for_step(run: Path, step: int, lives: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANGS_S
    while not any(row["step"] >= step for row in metrics(run)):
        assert lives()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ranks_of(run: Path) -> dict[int, int]:
    """Rank -> process id."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"layoutner" in command and f"output_dir={run}\0".encode() in command + b"\0":
            for value in environment:
                if value.startswith(b"RANK="):
                    found[int(value[5:])] = int(process.name)
    return found


def test_a_signal_is_noted_and_the_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with PreemptionGuard() as stop:
        assert stop.signal == 0
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGINT)  # within a moment: the same request, passed on by a launcher
        assert stop.signal == signal.SIGUSR1
        stop._since -= SAME_REQUEST_S
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_run_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with PreemptionGuard() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal == 0
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            with PreemptionGuard() as other:
                os.kill(os.getpid(), signal.SIGHUP)
                assert (stop.signal, other.signal) == (0, signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_handler_that_is_not_python_s_is_replaced_by_the_default() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    try:
        with PreemptionGuard() as stop:
            stop._before[signal.SIGUSR1] = None  # as signal.signal says it of a handler that C installed before Python
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.slow
def test_one_rank_is_told_and_all_save_and_go_on_bit_for_bit(train_arguments: Arguments, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    settings = {"schedule__max_steps": 60, "model__dropout": 0.1, "run__save_every": 0, "data__eval": 0.25}
    ranks = ["torchrun", "--nproc-per-node", 2, "--master-port"]
    process = start([*ranks, free_port(), "-m", "layoutner", "train", *train_arguments(run, **settings)])
    wait_for_step(run, 3, lambda: process.poll() is None)
    os.kill(ranks_of(run)[1], signal.SIGTERM)
    _, errors = process.communicate(timeout=HANGS_S)
    assert process.returncode != 0  # torchrun says 1 whatever a rank says
    (saved,) = (run / "checkpoints").glob("step-*")
    step = int(saved.name.removeprefix("step-"))
    assert f"SIGTERM: saved after step {step} of 60; run.resume = auto goes on from there" in errors
    assert "exitcode  : 75" in errors
    assert "Traceback (most" not in errors.split("ChildFailedError")[0].split("E1")[0]
    for folder, more in ((run, {"run__resume": "auto"}), (whole, {})):
        arguments = train_arguments(folder, **settings, **more)
        done = fork(["layoutner", "train", *arguments], ranks=2)
        assert done.returncode == 0, done.stderr[-3000:]
    computed = ("step", "train/loss", "train/lr", "train/grad_norm", "eval/f1", "eval/loss")
    rows = [[[row.get(key) for key in computed] for row in metrics(folder)] for folder in (run, whole)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 60
    weights = [f / "checkpoints" / "step-000060" / "optimizer.safetensors" for f in (run, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_deepspeed_launcher_is_told(number: int, train_arguments: Arguments, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = train_arguments(run, schedule__max_steps=100_000, run__save_every=0)
    launcher = ["deepspeed", "--num_gpus", 2, "--master_port", free_port(), "--module", "layoutner"]
    process = start([*launcher, "train", *arguments])
    wait_for_step(run, 3, lambda: process.poll() is None)
    # As a terminal and a batch system do: the launcher hands nothing on, and everything in its group gets the signal.
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=HANGS_S)
    assert process.returncode != 0
    assert ranks_of(run) == {}
    (saved,) = (run / "checkpoints").glob("step-*")
    assert f"saved after step {int(saved.name.removeprefix('step-'))}" in errors


@pytest.mark.parametrize("number", [signal.SIGUSR1, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_one_process_says_that_it_wants_to_go_on(
    number: signal.Signals, train_arguments: Arguments, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = train_arguments(run, schedule__max_steps=100_000, run__save_every=0)
    with Forks(["layoutner", "train", *arguments]) as process:
        wait_for_step(run, 3, lambda: process.processes[0].is_alive())
        process.kill(0, number)
        assert process.wait() == [75]
        errors = process.text()[1]
    assert f"layoutner: {number.name}: saved after step" in errors
    assert "Traceback" not in errors
    assert len(list((run / "checkpoints").glob("step-*"))) == 1
