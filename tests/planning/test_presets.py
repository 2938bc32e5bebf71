"""The shipped presets: known keys, read by DeepSpeed as meant, trained on two ranks."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from layoutner.deepspeed_config.key import Block
from layoutner.deepspeed_config.schema import installed_schema
from layoutner.planning.batch_plan import plan_batch
from layoutner.planning.render import load_preset, preset_names, render
from layoutner.planning.schedule import plan_schedule
from layoutner.settings.recipes import recipe_names
from layoutner.settings.tree import DeepSpeedSettings, Settings, load
from tests.builders.forks import fork
from tests.builders.processes import ROOT

WORKER = ROOT / "tests" / "workers" / "presets.py"
DTYPES = ("fp32", "bf16", "fp16")
PRESETS = preset_names()
TOP = installed_schema().top
STEPS = 3  # the loss of the third tells what two optimizer steps did

# ZeRO stage, and where optimizer states and weights are kept.
MEANT = {
    "cpu": (1, None, None),
    "multi-node": (1, None, None),
    "one-gpu": (0, None, None),
    "zero0": (0, None, None),
    "zero1": (1, None, None),
    "zero2": (2, None, None),
    "zero2-offload": (2, "cpu", None),
    "zero3": (3, None, None),
    "zero3-offload": (3, "cpu", "cpu"),
}


def shipped(preset: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((ROOT / "ds_configs" / f"{preset}.json").read_text())
    return tree


def rendered(recipe: str | None, ranks: int, **overrides: dict[str, str]) -> tuple[Settings, dict[str, Any]]:
    settings = load(recipe, overrides)
    batch = plan_batch(settings.batch.global_batch_size, settings.batch.micro_batch_size, ranks)
    schedule = plan_schedule(settings.schedule, settings.batch.global_batch_size, 150)
    return settings, render(settings, batch, schedule)


def strangers(tree: dict[str, Any], block: Block, path: str = "") -> Iterator[str]:
    """Dotted paths that DeepSpeed does not read, or reads under another name now."""
    for name, value in tree.items():
        dotted = f"{path}.{name}".lstrip(".")
        key = block.keys.get(name)
        if key is None or key.deprecated:
            yield dotted
        elif isinstance(value, dict):
            yield from strangers(value, key.block, dotted) if key.block else [dotted]


def test_this_file_knows_every_preset() -> None:
    assert sorted(MEANT) == PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_every_key_is_one_that_deepspeed_reads(preset: str) -> None:
    assert list(strangers(shipped(preset), TOP)) == []
    assert load_preset(DeepSpeedSettings(preset=preset)) == shipped(preset)


def test_a_stranger_is_seen() -> None:
    tree = {"zero_optimization": {"stge": 1, "offload_param": {"devise": "cpu"}, "cpu_offload": True}, "fp61": {}}
    found = ["zero_optimization.stge", "zero_optimization.offload_param.devise", "zero_optimization.cpu_offload"]
    assert list(strangers(tree, TOP)) == [*found, "fp61"]


@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("recipe", recipe_names())
def test_deepspeed_reads_what_was_meant(
    recipe: str, preset: str, dtype: str, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import deepspeed.comm
    import torch
    from deepspeed.runtime.config import DeepSpeedConfig

    monkeypatch.setattr(deepspeed.comm, "get_world_size", lambda group=None: ranks)
    monkeypatch.setattr(deepspeed.comm, "is_initialized", lambda: True)
    monkeypatch.setattr(deepspeed.comm, "get_rank", lambda group=None: 0)
    settings, config = rendered(
        recipe,
        ranks,
        batch={"global_batch_size": "32", "micro_batch_size": "2"},
        deepspeed={"preset": preset},
        precision={"dtype": dtype, "initial_scale_power": "12"},
    )
    read = DeepSpeedConfig(json.loads(json.dumps(config)))

    # What Settings own.
    triple = (read.train_batch_size, read.train_micro_batch_size_per_gpu, read.gradient_accumulation_steps)
    assert triple == (32, 2, 16 // ranks)
    optimizer = settings.optimizer
    assert read.gradient_clipping == optimizer.max_grad_norm > 0
    assert read.optimizer_name == "adamw"
    params = read.optimizer_params
    assert (params["lr"], params["weight_decay"], params["eps"]) == (optimizer.lr, optimizer.weight_decay, 1e-8)
    assert read.scheduler_name == "WarmupDecayLR"
    assert read.scheduler_params["warmup_max_lr"] == optimizer.lr
    total = settings.schedule.epochs * 5  # 150 windows, 32 a step
    warmup = round((settings.schedule.warmup_ratio or 0) * total)
    shift = max(2, warmup) - warmup
    assert read.scheduler_params["total_num_steps"] == total + shift
    assert read.scheduler_params["warmup_num_steps"] == warmup + shift
    assert (read.float16_config.enabled, read.bfloat16_config.enabled) == (dtype == "fp16", dtype == "bf16")
    if dtype == "fp16":
        assert (read.float16_config.loss_scale, read.float16_config.initial_scale_power) == (0, 12)

    # What the preset owns: every value of the file, where DeepSpeed keeps it.
    zero = read.zero_config
    stage, states, weights = MEANT[preset]
    assert (read.zero_optimization_stage, read.zero_enabled) == (stage, stage > 0)
    found = [place and place.device for place in (zero.offload_optimizer, zero.offload_param)]
    assert found == [states, weights]
    for name, value in shipped(preset)["zero_optimization"].items():
        place = getattr(zero, name.removeprefix("stage3_"))
        if isinstance(value, dict):
            place = {part: getattr(place, part) for part in value}
        assert place == value, name
    assert read.communication_data_type is None  # that of the weights
    if stage and dtype != "fp32":
        assert read.grad_accum_dtype in ("fp32", torch.float32)


@pytest.fixture(scope="module")
def runs(train_arguments: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs, PRESET-DTYPE, of every preset that can train here; all in one pair of processes."""
    folder = tmp_path_factory.mktemp("presets")
    arguments = train_arguments(folder, schedule__max_steps=STEPS)
    presets = ",".join(PRESETS)
    done = fork([WORKER, folder, presets, ",".join(DTYPES), *arguments], ranks=2)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder


def recorded(run: Path, metric: str) -> list[float]:
    return [json.loads(line)[metric] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_the_same(preset: str, dtype: str, request: pytest.FixtureRequest) -> None:
    runs: Path = request.getfixturevalue("runs")
    run = runs / f"{preset}-{dtype}"
    config = json.loads((run / "ds_config.json").read_text())
    assert config["zero_optimization"] == shipped(preset)["zero_optimization"]
    assert [name for name in ("fp16", "bf16") if name in config] == [name for name in (dtype,) if name != "fp32"]
    losses, reference = recorded(run, "train/loss"), recorded(runs / "zero0-fp32", "train/loss")
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]
    # In 16 bits, the distance is that of the number format.
    tolerance = {"fp32": 1e-4, "fp16": 5e-4, "bf16": 5e-3}[dtype]
    assert losses == pytest.approx(reference, rel=tolerance)
    norms = recorded(run, "train/grad_norm")
    assert norms == pytest.approx(recorded(runs / "zero0-fp32", "train/grad_norm"), rel=4 * tolerance)
    assert set(recorded(run, "train/loss_scale")) == {65536.0 if dtype == "fp16" else 1.0}
    assert set(recorded(run, "train/skipped_steps")) == {0}
    # The fp32 weights that a resumed run starts from are those of the same parameter.
    (checkpoint,) = run.glob("checkpoints/step-*")
    weights, saved = (load_file(checkpoint / f"{name}.safetensors") for name in ("model", "optimizer"))
    masters = {name.removeprefix("master/"): one for name, one in saved.items() if name.startswith("master/")}
    assert masters
    for name, master in masters.items():
        assert torch.equal(master.to(weights[name].dtype), weights[name]), name
