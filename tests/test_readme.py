"""Every command of the README runs as it stands, in order, in one folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for line in block.strip().splitlines()
]
BY_CI = ("make demo", "make test")
BY_ITSELF = "python -m pytest tests/test_engine.py"


def test_the_two_commands_and_the_checks_are_run_by_ci() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert set(BY_CI) | {"make check"} <= set(script)
    assert set(BY_CI) < set(COMMANDS)
    assert BY_ITSELF in COMMANDS
    assert len(COMMANDS) >= 9


def test_the_example_of_config_check_says_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from layoutner.cli import main

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    example, shown = re.findall(r"```json\n(.*?)```.*?```text\n(.*?)```", text, re.DOTALL)[0]
    (tmp_path / "ds.json").write_text(example)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="1"):
        main(["config", "check", "ds.json", "--world-size", "3"])
    assert capsys.readouterr().out == shown


@pytest.mark.slow
def test_every_other_command_runs_as_it_stands(
    forms: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """data/funsd is a folder of synthetic forms; the hub's cache holds a small LayoutLM under the published name."""
    from layoutner.demo.checkpoint import make_checkpoint

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "funsd").symlink_to(forms)
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    cached = tmp_path_factory.mktemp("hub") / "hub" / "models--microsoft--layoutlm-base-uncased"
    make_checkpoint(cached / "snapshots" / "0", forms, "layoutlm", seed=1, positions=512)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0")
    monkeypatch.setenv("HF_HOME", str(cached.parent.parent))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    no_cluster = shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True, check=False).returncode
    for command in COMMANDS:
        if command in (*BY_CI, BY_ITSELF):
            continue
        if command.startswith("sbatch"):
            if no_cluster:
                continue
            command = command.replace("sbatch", "sbatch --wait", 1)
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False
        )
        logs = "".join(log.read_text() for log in tmp_path.glob("*.log"))
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}{logs[-2000:]}"
    assert (tmp_path / "words.jsonl").stat().st_size > 1000
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 8


@pytest.mark.slow
def test_the_benchmark_runs(real_data: Path, minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    few = ["--schedule.epochs", "1", "--batch.global_windows", "64", "--data.max_length", "128", "--data.stride", "0"]
    command = [str(ROOT / "benchmarks" / "funsd.sh"), str(real_data / "funsd"), *few]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "test: 50 documents, 8707 words" in done.stdout
    assert re.search(r"all +0\.\d+ +0\.\d+ +0\.\d+ +1998", done.stdout)
