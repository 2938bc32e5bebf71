"""slurm/train.sh on a real Slurm cluster."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def cluster() -> None:
    """A cluster that answers; `.ci/run` starts one where it can."""
    if shutil.which("sbatch") is None or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.skip("no Slurm cluster answers (sbatch and sinfo)")


def submit(folder: Path, options: list[str], arguments: list[str]) -> tuple[int, str]:
    """sbatch and wait: exit code of the job, and its log."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = ["sbatch", "--wait", f"--output={folder}/job.log", *options, str(ROOT / "slurm" / "train.sh"), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=240, capture_output=True, text=True, check=False)
    log = folder / "job.log"
    return done.returncode, log.read_text() if log.exists() else done.stderr


@pytest.mark.usefixtures("cluster")
def test_a_job_trains_on_two_processes(train_arguments: Callable[..., list[str]], forms: Path, tmp_path: Path) -> None:
    run = tmp_path / "a run"  # a space must survive the way through sbatch and srun
    code, log = submit(tmp_path, ["--cpus-per-task=2"], train_arguments(run, data__test=forms))
    assert code == 0, log[-3000:]
    assert json.loads((run / "environment.json").read_text())["world_size"] == 2
    assert json.loads((run / "scores.json").read_text())["split"] == "test"


@pytest.mark.usefixtures("cluster")
def test_a_mistake_fails_the_job_and_is_said(train_arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    code, log = submit(tmp_path, ["--cpus-per-task=2"], train_arguments(tmp_path / "run", batch__micro_windows=3))
    assert code != 0
    assert "batch.micro_windows = 2 or 4" in log
