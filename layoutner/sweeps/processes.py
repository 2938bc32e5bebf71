"""The runs of a sweep as processes on this machine, or as a list for a Slurm array. Does not import torch."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from layoutner.distributed.machine import available_cpus
from layoutner.distributed.preemption import PreemptionGuard
from layoutner.errors import CheckpointError, Preempted, SettingsError, require_all
from layoutner.files.atomic import write_text
from layoutner.files.lock import Lock
from layoutner.progress import task
from layoutner.runs.folds import finished_scores
from layoutner.runs.readiness import require_ready
from layoutner.settings.tree import ENV_PREFIX
from layoutner.sweeps.results import Failure, Failures, scores_by_run
from layoutner.sweeps.sweep import Run, Sweep
from layoutner.training.folder import LOCK_FILE, lock

LOOK_EVERY_S = 0.1  # how soon the end of a run is seen
# How long torchrun gives its ranks to save after a signal, in seconds; its own 30 are few for a large model.
SAVES_WITHIN_S = 600
# Exit codes of a run that was asked to end, and goes on when it is started again: see layoutner/console/ending.py, and
# 128 + SIGTERM, as shells have it.
ASKED_TO_END = (75, 130, 143)
# Signals that others send; a crash of the run itself ends in another one, such as SIGSEGV.
SENT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGKILL)

Say = Callable[[str], object]


@dataclass(frozen=True)
class _Child:
    """A run in a process of its own."""

    number: int  # from 1, among those that this sweep trains
    run: Run
    process: "subprocess.Popen[bytes]"
    environment: Mapping[str, str]
    printed_before: int  # bytes of its log
    since: float  # time.monotonic

    def text(self) -> str:
        """What it has printed."""
        with self.run.log.open("rb") as file:
            file.seek(self.printed_before)
            return file.read().decode("utf-8", errors="replace")


def train_sweep(
    sweep: Sweep, jobs: int, ranks: int, retry: bool, say: Say, verbose: bool = False
) -> tuple[list[str], list[str]]:
    """Train the runs that have no scores yet, each in a process of its own.

    Args:
        jobs: number of runs at a time.
        ranks: number of processes of each run.
        retry: also train runs that failed before.
        say: takes a line for every run that starts or ends.
        verbose: whether the runs log details.

    Returns:
        One line for each run that failed, and for each that something else than the sweep interrupted.

    Raises:
        LayoutnerError: the sweep cannot start; no run was started.
        Preempted: a signal asked the sweep to end, and its runs have ended.
    """
    with _locked(sweep.folder):
        todo = _prepare(sweep, retry, say)
        gpus = _visible_gpus() if any(run.settings.run.device != "cpu" for run in todo) else []
        if jobs > 1 and not gpus and any(run.settings.batch.micro_batch_size == "auto" for run in todo):
            raise SettingsError(
                f"--jobs {jobs} with batch.micro_batch_size = auto: runs that share a machine's memory would each take "
                "nearly all of it; give a number"
            )
        return _Training(sweep, todo, slot_environments(jobs, ranks, gpus), ranks, say, verbose).train()


def write_array(sweep: Sweep, say: Say) -> Path:
    """Write the settings files of the runs that have no scores yet, and a list of their paths, one per line.

    Runs that failed are among them. The name of the list depends on its content, so jobs that read an earlier list are
    not disturbed.

    Raises:
        LayoutnerError: the sweep cannot start.
    """
    with _locked(sweep.folder):
        todo = _prepare(sweep, True, say)
        text = "".join(f"{run.settings_file}\n" for run in todo)
        array = sweep.folder / f"array-{hashlib.sha256(text.encode()).hexdigest()[:8]}.txt"
        write_text(array, text)
        return array


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other sweeps out of the folder, which is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = Lock(folder / LOCK_FILE)
    except TimeoutError:
        raise CheckpointError(
            f"output_dir = {folder}: another sweep is at work there: wait for its end, or give another output_dir"
        ) from None
    except OSError as error:
        raise CheckpointError(f"output_dir = {folder}: cannot be written: {error}") from None
    with held:
        yield


def _prepare(sweep: Sweep, retry: bool, say: Say) -> list[Run]:
    """The runs to train, in order; their settings files are written, and all checks that need no model are done."""
    finished, failed = scores_by_run(sweep), Failures.of(sweep.folder).runs
    left = [run for run in sweep.runs if run.name not in finished]
    todo = [run for run in left if retry or run.name not in failed]
    require_all("this sweep cannot start", (partial(_require_free, run) for run in todo))
    require_ready(*(run.settings for run in todo))
    for run in todo:
        run.write_settings()
    again = f"; {len(left) - len(todo)} failed before, and --retry tries them again" if len(left) > len(todo) else ""
    say(f"{len(todo)} of {len(sweep.runs)} runs to train in {sweep.folder}{again}")
    return todo


def _require_free(run: Run) -> None:
    """Refuse a run whose folder another process writes to, such as one that a killed sweep has left."""
    if (run.folder / LOCK_FILE).exists():
        lock(run.folder).release()


def _visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch  # here, because a sweep on the CPU does not need it

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(number) for number in range(count)])[:count]


def slot_environments(jobs: int, ranks: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """The environment of the runs in each of the slots, one slot for each run at a time.

    A slot has GPUs of its own. A rank has its share of the CPUs, unless OMP_NUM_THREADS is set. Settings in the
    environment are left out: they are in the settings files, and must not change what is swept.

    Args:
        gpus: names of the GPUs to share out; empty: train on the CPU.

    Raises:
        SettingsError: there are fewer GPUs than ranks.
    """
    if gpus and jobs * ranks > len(gpus):
        raise SettingsError(
            f"--jobs {jobs} with --ranks {ranks} needs {jobs * ranks} GPUs, and {len(gpus)} are visible: take fewer, "
            "or run.device = cpu"
        )
    shared = {
        "OMP_NUM_THREADS": str(max(1, available_cpus() // (jobs * ranks))),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SAVES_WITHIN_S),
        **{
            name: value
            for name, value in os.environ.items()
            if not (name.upper().startswith(ENV_PREFIX) and "__" in name) and name != "WANDB_RUN_ID"  # of one run
        },
    }
    own = ({"CUDA_VISIBLE_DEVICES": ",".join(gpus[slot * ranks : (slot + 1) * ranks])} for slot in range(jobs))
    return [shared | (devices if gpus else {}) for devices in own]


class _Training:
    """The runs that are trained, in free slots."""

    def __init__(
        self, sweep: Sweep, todo: list[Run], slots: list[dict[str, str]], ranks: int, say: Say, verbose: bool
    ) -> None:
        self._sweep, self._todo, self._ranks, self._say, self._verbose = sweep, todo, ranks, say, verbose
        self._free: list[Mapping[str, str]] = list(slots)
        self._running: list[_Child] = []
        self._failures = Failures.of(sweep.folder)
        self._failed: list[str] = []
        self._interrupted: list[str] = []

    def train(self) -> tuple[list[str], list[str]]:
        """Train all. See `train_sweep`."""
        waiting = list(enumerate(self._todo, 1))
        told = False
        with PreemptionGuard() as guard, task("training the runs", len(self._todo), "runs") as progress:
            try:
                while self._running or (waiting and not guard.signal):
                    while waiting and self._free and not guard.signal:
                        self._running.append(self._start(*waiting.pop(0)))
                    if guard.signal and not told:
                        told = True
                        self._say(f"{signal.Signals(guard.signal).name}: asking {len(self._running)} run(s) to save")
                        self._ask_to_end()
                    for child in [child for child in self._running if child.process.poll() is not None]:
                        self._running.remove(child)
                        self._free.append(child.environment)
                        self._end(child, told)
                        progress.advance()
                    time.sleep(LOOK_EVERY_S)
            finally:
                self._ask_to_end()  # after an error here, or a second Ctrl-C
        if guard.signal:
            name = signal.Signals(guard.signal).name
            raise Preempted(f"{name}: the sweep has stopped; the same command goes on from there")
        return self._failed, self._interrupted

    def _ask_to_end(self) -> None:
        # To a launcher alone, which passes it on: its ranks have sessions of their own.
        for child in self._running:
            child.process.terminate()

    def _start(self, number: int, run: Run) -> _Child:
        self._failures = self._failures.record(self._sweep.folder, run.name, None)
        command = [sys.executable, "-u", "-m"]
        if self._ranks > 1:
            command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(self._ranks), "-m"]
        command += ["layoutner", "train", "--config", str(run.settings_file)]
        command += ["--verbose"] if self._verbose else []
        environment = self._free.pop(0)
        with run.log.open("ab") as log:
            before = log.tell()
            # A session of its own: Ctrl-C reaches the sweep alone, which then asks the run once, with SIGTERM.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self._say(f"[{number}/{len(self._todo)}] {run.name}: starts")
        return _Child(number, run, process, environment, before, time.monotonic())

    def _end(self, child: _Child, told: bool) -> None:
        """Say how a run has ended, and record it if it failed."""
        run, code = child.run, child.process.returncode
        where, seconds = f"[{child.number}/{len(self._todo)}] {run.name}", time.monotonic() - child.since
        text = child.text()
        if code and self._ranks > 1:
            code = exit_code_of_rank(text, code)
        scores = None
        if code == 0:
            scores = finished_scores(run.settings)
        if scores is not None:
            self._say(f"{where}: F1 {scores['f1']:.4f} loss {scores['loss']:.4f} after {seconds:.0f} s")
        elif -code in SENT or code in ASKED_TO_END or (told and self._ranks > 1):
            self._say(f"{where}: interrupted after {seconds:.0f} s")
            self._interrupted.append(f"{run.name} (see {run.log})")
        else:
            failure = Failure(exit_code=code, message=error_in(text) or f"exit code {code}")
            self._failures = self._failures.record(self._sweep.folder, run.name, failure)
            self._say(f"{where}: failed after {seconds:.0f} s: {failure.message}")
            self._failed.append(f"{run.name}: {failure.message} (see {run.log})")


def exit_code_of_rank(text: str, code: int) -> int:
    """The exit code of the rank that ended first. torchrun prints it, and itself exits with 1, the given `code`."""
    found = re.findall(r"^\s*exitcode\s*: (-?\d+) ", text, re.MULTILINE)
    return int(found[-1]) if found else code  # the root cause is printed last


def error_in(text: str) -> str:
    """The error in what `layoutner train` has printed, in one line; "" if it has printed nothing."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if found := re.match(r"layoutner: (?:rank \d+: )?error: (.*)", line):
            details = []
            for detail in lines[number + 1 :]:
                if not detail.startswith("  "):
                    break
                details.append(detail.strip())
            return " ".join([found[1], *details])
        if "this is a bug of layoutner" in line and number:
            return lines[number - 1]  # the end of the traceback
    return lines[-1] if lines else ""
