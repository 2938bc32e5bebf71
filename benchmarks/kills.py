"""Kill -9 a run that saves every step, at random moments, again and again; then compare what is left.

    python benchmarks/kills.py 200 FOLDER

The run starts again after every kill (run.resume = auto) until it is through; where it is through before all kills are
spent, the next run begins. Every finished run must be, byte for byte, the run that nobody killed: the weights of its
last checkpoint, and every line that metrics.jsonl computes. The processes are forked from one that has imported
everything, so that most of the time goes into training, saving and dying.
"""

import json
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

os.environ.update(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1")

import torch

from layoutner.cli import main
from layoutner.demo.checkpoint import make_checkpoint
from layoutner.demo.forms import make_forms
from layoutner.inference import labeller  # noqa: F401  # imported before the forks, as is the loop
from layoutner.runs import training_run  # noqa: F401

STEPS = 150


def arguments(folder: Path, run: Path) -> list[str]:
    values = {
        "model.name_or_path": folder / "start",
        "data.train": folder / "forms",
        "data.eval": 0.25,
        "data.max_length": 128,
        "data.stride": 16,
        "batch.global_batch_size": 8,
        "batch.micro_batch_size": 8,
        "schedule.max_steps": STEPS,
        "precision.dtype": "fp32",
        "run.output_dir": run,
        "run.save_every": 1,
        "run.eval_every": 50,
        "run.log_every": 1,
        "run.resume": "auto",
    }
    return ["train", *(f"--{name}={value}" for name, value in values.items())]


def start(folder: Path, run: Path, log: Path) -> int:
    """A process that trains; its number."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with log.open("a") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            torch.set_num_threads(1)
            main(arguments(folder, run))
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid


def result(run: Path) -> tuple[bytes, list[list[object]]]:
    """Weights of the last checkpoint, and what every logged step computed."""
    computed = ("step", "train/loss", "train/lr", "train/grad_norm", "eval/f1", "eval/loss")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    weights = run / "checkpoints" / f"step-{STEPS:06d}" / "optimizer.safetensors"
    return weights.read_bytes(), [[row.get(key) for key in computed] for row in rows]


def kill_and_compare(kills: int, folder: Path, seed: int = 1) -> dict[str, float]:
    """Spend the kills; raise AssertionError where anything is lost.

    Returns:
        What happened: kills, runs finished, resumes, the most steps that one kill cost, seconds.
    """
    make_forms(folder / "forms", train=24, test=2, seed=7)
    make_checkpoint(folder / "start", folder / "forms", "layoutlm", seed=3)
    log, whole = folder / "log", folder / "whole"
    begun = time.monotonic()
    _, status = os.waitpid(start(folder, whole, log), 0)
    assert status == 0, log.read_text()[-3000:]
    whole_s = time.monotonic() - begun
    expected = result(whole)
    assert [row[0] for row in expected[1]] == list(range(1, STEPS + 1))
    rng = random.Random(seed)
    spent = finished = resumes = worst = 0
    run = folder / "run-0"
    while spent < kills or (run / "metrics.jsonl").exists():
        log.write_text("")
        pid = start(folder, run, log)
        before = newest(run)
        if spent < kills:
            # Some while it starts, most while it trains and saves, however fast the machine is.
            time.sleep(whole_s / 4 * rng.random())
            os.kill(pid, signal.SIGKILL)
            spent += 1
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status) or status == 0, log.read_text()[-3000:]
        assert newest(run) >= before, "a checkpoint was lost"
        text = log.read_text()
        resumes += "resumed from" in text
        assert "damaged" not in text, text
        logged = map(int, re.findall(r"\bstep (\d+)/\d+ loss", text))
        worst = max([worst, *(step - newest(run) for step in logged)])
        if status == 0:
            assert result(run) == expected, "the run is not the one that nobody killed"
            finished += 1
            shutil.rmtree(run)
            run = folder / f"run-{finished}"
    took = time.monotonic() - begun
    return {"kills": spent, "resumes": resumes, "runs finished": finished, "steps lost at most": worst, "seconds": took}


def newest(run: Path) -> int:
    """Step of the newest checkpoint under its own name; 0 without one."""
    return max((int(folder.name[5:]) for folder in (run / "checkpoints").glob("step-*")), default=0)


if __name__ == "__main__":
    for what, number in kill_and_compare(int(sys.argv[1]), Path(sys.argv[2])).items():
        print(f"{what}: {number:.0f}")
