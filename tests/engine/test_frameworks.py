"""`config check --for` against the real Hugging Face Trainer and the real Accelerate, key by key."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from layoutner.deepspeed_config.check import check
from layoutner.deepspeed_config.finding import ERROR
from layoutner.deepspeed_config.key import Block
from layoutner.deepspeed_config.schema import installed_schema
from tests.builders.processes import ROOT, free_port, launch

WORKER = ROOT / "tests" / "workers" / "frameworks.py"
SCHEMA = installed_schema()
FRAMEWORKS = ("hf-trainer", "accelerate")
Case = tuple[str, dict[str, Any]]
Made = dict[str, Any] | str


def paths(block: Block, above: str = "") -> Iterator[str]:
    """Dotted paths of all keys that have a name of their own."""
    for name, key in block.keys.items():
        path = f"{above}.{name}".lstrip(".")
        yield path
        if key.block is not None and not key.block.open:
            yield from paths(key.block, path)


def config_with(path: str, value: object, kind: str = "") -> dict[str, Any]:
    """A config that both frameworks take, with a value at a path."""
    config: dict[str, Any] = {"train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": 3}}
    if kind:
        part = path.partition(".")[0]
        keys = SCHEMA.schedulers.get(kind, Block({}, True)).keys
        needed = {"total_num_steps": 10} if "total_num_steps" in keys else {}
        config[part] = {"type": kind, "params": needed}
    *outer, last = path.split(".")
    place = config
    for name in outer:
        place = place.setdefault(name, {})
    place[last] = value
    if path.startswith("scheduler") and "optimizer" not in config:
        config["optimizer"] = {"type": "AdamW", "params": {"lr": 0.001}}
    if path.startswith("optimizer") and "scheduler" not in config:
        config["scheduler"] = {"type": "WarmupLR", "params": {}}
    return config


def places() -> Iterator[tuple[str, str]]:
    """(path, type of the optimizer or scheduler it is of, or "")."""
    for path in paths(SCHEMA.top):
        if path.partition(".")[0] not in ("optimizer", "scheduler"):
            yield path, ""
    for name, block in SCHEMA.optimizers.items():
        kind = (SCHEMA.deepspeed_types | SCHEMA.torch_types)[name]
        yield from ((f"optimizer.params.{key}", kind) for key in block.keys)
    for kind, block in SCHEMA.schedulers.items():
        yield from ((f"scheduler.params.{key}", kind) for key in block.keys)


def errors(config: dict[str, Any], framework: str) -> list[str]:
    """Paths of the errors that `config check --for FRAMEWORK --world-size 1` finds."""
    return [f.path for f in check(json.dumps(config), 1, framework) if f.severity == ERROR]


def at(config: dict[str, Any], path: str) -> object:
    found: Any = config
    for name in path.split("."):
        found = found[name]
    return found


ZERO: dict[str, Any] = {"zero_optimization": {"stage": 2}}
ADAM = {"optimizer": {"type": "AdamW", "params": {"lr": 0.001}}, "scheduler": {"type": "WarmupLR", "params": {}}}
TOTAL, MICRO, STEPS = "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"
WHOLE: dict[str, dict[str, Any]] = {
    "no-batch-size": ZERO,
    "accumulation-alone": {**ZERO, STEPS: "auto"},
    "null-batch-sizes": {**ZERO, TOTAL: None, MICRO: None},
    "total": {**ZERO, TOTAL: 4},
    "total-auto": {**ZERO, TOTAL: "auto"},
    "total-auto-with-accumulation": {**ZERO, TOTAL: "auto", STEPS: 1},
    "micro": {**ZERO, MICRO: 4},
    "micro-auto": {**ZERO, MICRO: "auto"},
    "both-auto": {**ZERO, TOTAL: "auto", MICRO: "auto"},
    "all-auto": {**ZERO, TOTAL: "auto", MICRO: "auto", STEPS: "auto"},
    "micro-and-accumulation-auto": {**ZERO, MICRO: 4, STEPS: "auto"},
    "total-and-micro": {**ZERO, TOTAL: 4, MICRO: 4},
    "total-that-needs-accumulation": {**ZERO, TOTAL: 8, MICRO: 4},
    "no-zero-optimization": {MICRO: 4},
    "zero-optimization-true": {MICRO: 4, "zero_optimization": True},
    "zero-optimization-false": {MICRO: 4, "zero_optimization": False},
    "empty-zero-optimization": {MICRO: 4, "zero_optimization": {}},
    "stage-auto-with-bf16-masters": {
        MICRO: 4,
        "zero_optimization": {"stage": "auto"},
        "bf16": {"enabled": False, "bf16_master_weights_and_grads": True},
    },
    "untested-auto-with-optimizer": {**ZERO, MICRO: 4, **ADAM, "zero_allow_untested_optimizer": "auto"},
    "untested-auto-without-optimizer": {**ZERO, MICRO: 4, "zero_allow_untested_optimizer": "auto"},
}


AUTO = [(framework, path, config_with(path, "auto", kind)) for path, kind in places() for framework in FRAMEWORKS]
NAMED = [(framework, name) for name in WHOLE for framework in FRAMEWORKS]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    """Each config of AUTO, then of NAMED, in its framework: what DeepSpeed would be given, or the text of the error."""
    cases: list[Case] = [(framework, config) for framework, _, config in AUTO]
    cases += [(framework, WHOLE[name]) for framework, name in NAMED]
    folder = tmp_path_factory.mktemp("frameworks")
    (folder / "in.json").write_text(json.dumps(cases))
    command = ["torchrun", "--nproc-per-node", 1, "--master-port", free_port(), WORKER]
    done = launch([*command, folder / "in.json", folder / "out.json"], timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    results: list[Made] = json.loads((folder / "out.json").read_text())
    return results


@pytest.mark.slow
def test_auto_is_an_error_just_where_the_framework_does_not_fill_it_in(made: list[Made]) -> None:
    wrong, filled = [], 0
    for (framework, path, config), result in zip(AUTO, made, strict=False):
        is_filled = not isinstance(result, str) and at(result, path) != "auto"
        filled += is_filled
        if is_filled == (path in errors(config, framework)):
            wrong.append(f"{framework} {json.dumps(config)}: {result}")
    assert not wrong, "\n".join(wrong)
    assert len(AUTO) > 900
    assert filled > 100


@pytest.mark.slow
def test_a_whole_config_has_an_error_just_where_the_framework_refuses_it(made: list[Made]) -> None:
    refused = {name: isinstance(result, str) for name, result in zip(NAMED, made[len(AUTO) :], strict=True)}
    assert {(framework, name): bool(errors(WHOLE[name], framework)) for framework, name in NAMED} == refused
    assert 0 < sum(refused.values()) < len(refused)
