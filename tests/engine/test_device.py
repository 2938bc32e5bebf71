"""run.device and --device: what is computed on, said before DeepSpeed looks for itself."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from layoutner.cli import _run
from layoutner.distributed.ranks import Ranks, _has_gpu, _tell_deepspeed
from layoutner.errors import SettingsError
from layoutner.settings.tree import DeviceName
from tests.builders.families import make_export
from tests.builders.processes import HANGS_S, ROOT

Arguments = Callable[..., list[str]]


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command with no word on the device in its environment but `environment`; CUDA devices stay visible."""
    tool, *arguments = map(str, command)
    kept = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    return subprocess.run(
        [str(Path(sys.executable).parent / tool), *arguments],
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        env={**kept, "OMP_NUM_THREADS": "1", **environment},
        cwd=ROOT,
        check=False,
    )


JOIN = """
import os, sys, torch
from layoutner.distributed.ranks import Ranks

def touched(*_):
    raise AssertionError("CUDA was asked")

wanted, tripwire = sys.argv[1:]
if tripwire:
    torch.cuda.is_available = torch.cuda.device_count = torch.cuda.set_device = torch.cuda._lazy_init = touched
    try:
        Ranks.join(device="auto")
    except AssertionError as error:
        print(error)  # so the wire is felt
ranks = Ranks.join(device=wanted)
assert "deepspeed" not in sys.modules
from layoutner.engine.engine import get_accelerator
print(ranks.device.type, get_accelerator().device_name(), ranks.device_name, os.environ.get("DS_ACCELERATOR"))
ranks.close()
"""


def test_cpu_asks_cuda_nothing_and_tells_deepspeed() -> None:
    done = run("python", "-c", JOIN, "cpu", "tripwire", DS_ACCELERATOR="cuda")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["CUDA was asked", "cpu cpu cpu cpu"]


@pytest.mark.parametrize(
    ("device", "environment", "devices", "on_gpu"),
    [
        ("auto", None, 1, True),
        ("auto", "cuda", 1, True),
        ("auto", "cpu", 1, False),
        ("auto", None, 0, False),
        ("cpu", "cuda", 1, False),
        ("cuda", None, 1, True),
        ("cuda", "cpu", 1, True),
    ],
)
def test_the_choice(
    device: DeviceName, environment: str | None, devices: int, on_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # put back after `cpu`
    monkeypatch.setenv("DS_ACCELERATOR", environment or "")
    if environment is None:
        monkeypatch.delenv("DS_ACCELERATOR")
    assert _has_gpu(device, 0) == on_gpu
    _tell_deepspeed(device, on_gpu)
    told = os.environ.get("DS_ACCELERATOR")
    assert told == ((environment if on_gpu else "cpu") if device == "auto" else device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ("" if device == "cpu" else "0")


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_more_processes_than_devices(device: DeviceName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    with pytest.raises(SettingsError, match=rf"device = {device}: 2 CUDA device\(s\) for at least 3 processes"):
        _has_gpu(device, 2)


@pytest.mark.parametrize(("environment", "threads"), [({}, [3]), ({"OMP_NUM_THREADS": "1"}, [])])
def test_ranks_share_the_cores_of_their_machine(
    environment: dict[str, str], threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in {"DS_ACCELERATOR": "cpu", "LOCAL_WORLD_SIZE": "4", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    found: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    Ranks.join().close()
    assert found == threads


COMMANDS = """
import sys
from layoutner.errors import LayoutnerError, SettingsError
from layoutner.distributed.ranks import Ranks

def join(cls, *positional, **named):
    print("deepspeed" in sys.modules, *positional, *named.values())
    raise LayoutnerError("joined")

Ranks.join = classmethod(join)
from layoutner.cli import _run
forms, checkpoint, model, output = sys.argv[1:]
trains = ["--data.train", forms, "--model.name_or_path", checkpoint, "--schedule.max_steps", "1"]
trains += ["--run.output_dir", output]
for device in ("cpu", "cuda", None):
    for command in ("train", "cross-validate", "predict", "evaluate"):
        name = "--run.device" if command in ("train", "cross-validate") else "--device"
        rest = [forms, "--model", model] if name == "--device" else trains
        rest = [*rest, "--data.folds", "3"] if command == "cross-validate" else rest
        try:
            _run([command, *rest, *([name, device] if device else [])])
        except LayoutnerError as error:
            assert str(error) == "joined", error
"""


def test_every_command_hands_its_device_on_before_deepspeed_is_imported(
    forms: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    model = make_export(checkpoints["layoutlm"], tmp_path / "models", ["O", "B-X", "I-X"])
    done = run("python", "-c", COMMANDS, forms, checkpoints["layoutlm"], model, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    expected = []
    for device in ("cpu", "cuda", "auto"):
        expected += [f"False 45.0 {device}"] * 4
    assert done.stdout.splitlines() == expected


def test_another_device_is_refused(forms: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="argument --device: invalid choice: 'tpu'"):
        _run(["predict", str(forms), "--model", str(tmp_path), "--device", "tpu"])
    with pytest.raises(SettingsError, match="run.device = 'tpu'"):
        _run(["train", "--run.device", "tpu"])


def test_cuda_without_a_device_is_one_message(train_arguments: Arguments, tmp_path: Path) -> None:
    arguments = train_arguments(tmp_path / "run", run__device="cuda")
    done = run("layoutner", "train", *arguments, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr.startswith("layoutner: error: device = cuda: torch ")
    assert "sees no CUDA device with CUDA_VISIBLE_DEVICES = ''" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_on_the_cpu(train_arguments: Arguments, tmp_path: Path) -> None:
    """With nothing in the environment; on a machine with GPUs they stay unused."""
    folder = tmp_path / "run"
    done = run("layoutner", "train", *train_arguments(folder, run__device="cpu", schedule__max_steps=1))
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((folder / "environment.json").read_text())["device"] == "cpu"
    assert "Setting accelerator to CPU" not in done.stdout + done.stderr  # DeepSpeed was told, and did not guess


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("device", "environment", "expected"),
    [
        ("cuda", {}, "cuda cuda"),
        ("cuda", {"DS_ACCELERATOR": "cpu"}, "cuda cuda"),
        ("auto", {}, "cuda cuda"),
        ("auto", {"DS_ACCELERATOR": "cpu"}, "cpu cpu"),
        ("cpu", {}, "cpu cpu"),
    ],
)
def test_where_there_is_a_gpu(device: str, environment: dict[str, str], expected: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    done = run("python", "-c", JOIN + "print(torch.cuda.is_initialized())", device, "", **environment)
    assert done.returncode == 0, done.stderr
    *_, found, initialised = done.stdout.splitlines()
    assert found.startswith(expected)
    assert initialised == str(expected == "cuda cuda")


@pytest.mark.gpu
def test_more_processes_than_gpus(train_arguments: Arguments, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    count = torch.cuda.device_count()
    environment = {"RANK": str(count), "LOCAL_RANK": str(count), "WORLD_SIZE": str(count + 1)}
    done = run("layoutner", "train", *train_arguments(tmp_path / "run", run__device="cuda"), **environment)
    assert done.returncode == 2
    assert f"{count} CUDA device(s) for at least {count + 1} processes" in done.stderr
