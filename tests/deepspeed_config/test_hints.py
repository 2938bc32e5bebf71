"""What `config check` advises: names by meaning, keys by place and value, one finding for one fault; and it works."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from deepspeed.runtime.config import DEEPSPEED_OPTIMIZERS
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from layoutner.deepspeed_config.check import check
from layoutner.deepspeed_config.finding import ERROR, Finding
from layoutner.deepspeed_config.hints import optimizer_meant, scheduler_meant
from layoutner.deepspeed_config.hjson_source import SourceError
from layoutner.deepspeed_config.key import Block
from layoutner.deepspeed_config.notes.other_names import (
    CONSTANT_SCHEDULES,
    KEY_NAMES,
    OPTIMIZER_NAMES,
    REMOVED_OPTIMIZERS,
    SCHEDULER_NAMES,
    UNRELATED_OPTIMIZERS,
)
from layoutner.deepspeed_config.schema import installed_schema
from tests.builders.forks import fork
from tests.builders.processes import ROOT

WORKER = ROOT / "tests" / "workers" / "components.py"
SCHEMA = installed_schema()
TYPES = SCHEMA.deepspeed_types | SCHEMA.torch_types
MICRO = {"train_micro_batch_size_per_gpu": 1}


def found(config: dict[str, Any], path: str) -> list[Finding]:
    return [finding for finding in check(json.dumps(MICRO | config)) if finding.path == path]


def advice(config: dict[str, Any], path: str) -> str:
    (finding,) = found(config, path)
    return finding.advice


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("DeepSpeedCPUAdam", "AdamW"),
        ("CPUAdam", "AdamW"),
        ("FusedAdam", "AdamW"),
        ("adamw_torch", "AdamW"),
        ("paged_adamw_8bit", "AdamW"),
        ("PagedAdamW", "AdamW"),
        ("AdamW8bit", "AdamW"),
        ("Adam8bit", "Adam"),
        ("torch_adam", "Adam"),
        ("torch.optim.AdamW", "AdamW"),
        ("adam_w", "AdamW"),
        ("FusedLamb", "Lamb"),
        ("DeepSpeedCPULion", "Lion"),
        ("lion_8bit", "Lion"),
        ("Sgd", "SGD"),
        ("AdamWW", "AdamW"),
        ("Adma", "Adam"),
        ("RMSPropp", "RMSprop"),
        ("Adan", ""),
        ("SGDW", ""),
        ("AdamX", ""),
        ("Sophia", ""),
        ("LBFSG", ""),
    ],
)
def test_an_optimizer_is_found_by_what_is_meant(written: str, meant: str) -> None:
    said = advice({"optimizer": {"type": written, "params": {}}}, "optimizer.type")
    assert said.startswith(tuple(f"{start} {meant!r}" for start in ("write", "did you mean"))) == bool(meant)
    assert meant or said.endswith("make another one in the script and remove this block")


@pytest.mark.parametrize(
    "written", ["OneBitAdam", "1-bit Adam", "onebit_adam", "0/1 Adam", "ZeroOneAdam", "onebitlamb"]
)
def test_an_optimizer_that_is_gone_is_known_in_every_spelling(written: str) -> None:
    (finding,) = found({"optimizer": {"type": written, "params": {}}}, "optimizer.type")
    assert finding.message == f"{written} was removed in DeepSpeed 0.19.7"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("linear", "WarmupDecayLR"),
        ("WarmupDecay", "WarmupDecayLR"),
        ("get_linear_schedule_with_warmup", "WarmupDecayLR"),
        ("polynomial", "WarmupDecayLR"),
        ("cosine", "WarmupCosineLR"),
        ("WarmupCosine", "WarmupCosineLR"),
        ("CosineAnnealing", "WarmupCosineLR"),
        ("CosineAnnealingLR", "WarmupCosineLR"),
        ("cosine_with_restarts", "WarmupCosineLR"),
        ("constant_with_warmup", "WarmupLR"),
        ("warmuplr", "WarmupLR"),
        ("OneCycleLR", "OneCycle"),
        ("WarmupDecayLRR", "WarmupDecayLR"),
        ("inverse_sqrt", ""),
    ],
)
def test_a_schedule_is_found_by_what_is_meant(written: str, meant: str) -> None:
    config = {"scheduler": {"type": written, "params": {}}, "zero_optimization": {"stage": 2}}
    said = advice(config, "scheduler.type")
    assert said.startswith(tuple(f"{start} {meant!r}" for start in ("write", "did you mean"))) == bool(meant)


def test_a_constant_schedule_is_no_schedule() -> None:
    assert advice({"scheduler": {"type": "constant", "params": {}}}, "scheduler.type").startswith(
        "remove the scheduler"
    )


def test_every_name_of_transformers_has_an_answer_of_its_kind() -> None:
    """An optimizer that transformers calls adamw_... is AdamW here, or nothing; never a neighbour in the alphabet."""
    families = ("adamw", "lion", "rmsprop", "adagrad", "adafactor", "sgd")
    for name in OptimizerNames:
        meant = optimizer_meant(SCHEMA, name.value)[0].lower()
        family = next((f for f in families if name.value.removeprefix("paged_").startswith(f)), "")
        assert meant == family, name
    kinds = {"linear": "WarmupDecayLR", "polynomial": "WarmupDecayLR", "constant_with_warmup": "WarmupLR"}
    for schedule in SchedulerType:
        expected = "WarmupCosineLR" if "cosine" in schedule.value else kinds.get(schedule.value, "")
        assert scheduler_meant(SCHEMA, schedule.value, wrapped=True)[0] == expected, schedule


def test_the_tables_hold_other_names_and_mean_what_there_is() -> None:
    assert {meant for meant, _ in OPTIMIZER_NAMES.values()} <= set(TYPES.values()) - {"LBFGS"}
    assert {meant for meant, _ in SCHEDULER_NAMES.values()} <= set(SCHEMA.deepspeed_schedulers)
    names = [OPTIMIZER_NAMES.keys(), REMOVED_OPTIMIZERS.keys(), UNRELATED_OPTIMIZERS, TYPES.keys()]
    twice = [name for name, count in Counter(name for part in names for name in part).items() if count > 1]
    assert not twice
    assert not SCHEDULER_NAMES.keys() & (CONSTANT_SCHEDULES | {own.lower() for own in SCHEMA.deepspeed_schedulers})
    for name in (*OPTIMIZER_NAMES, *SCHEDULER_NAMES):
        assert name == "".join(filter(str.isalnum, name)).lower()


def test_what_a_key_is_said_to_mean_is_a_key() -> None:
    adamw, warmup = SCHEMA.optimizers["adamw"], SCHEMA.schedulers["WarmupDecayLR"]
    parameters = {"optimizer.params": adamw, "scheduler.params": warmup}
    for name, meanings in KEY_NAMES.items():
        for meant in meanings:
            above, _, leaf = meant.rpartition(".")
            block: Block | None = parameters.get(above)
            if block is None:
                block = SCHEMA.top.keys[above].block if above else SCHEMA.top
            assert block is not None
            assert leaf in block.keys, (name, meant)
            assert not block.keys[leaf].deprecated, (name, meant)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Each config of ENGINES in a real engine on the CPU: "" or the text of the error."""
    folder = tmp_path_factory.mktemp("components")
    (folder / "in.json").write_text(json.dumps([MICRO | config for config in ENGINES.values()]))
    done = fork([WORKER, folder / "in.json", folder / "out.json"], ranks=1)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(ENGINES, json.loads((folder / "out.json").read_text()), strict=True))


ADAM = {"type": "AdamW", "params": {"lr": 0.001, "torch_adam": True}}
STAGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "zero": {"zero_optimization": {"stage": 1}},
    "bf16": {"bf16": {"enabled": True}},
}
NEEDED = {
    "OneCycle": {"cycle_min_lr": 0.0, "cycle_max_lr": 0.1, "cycle_momentum": False},
    "WarmupDecayLR": {"total_num_steps": 10, "warmup_num_steps": 2},
    "WarmupCosineLR": {"total_num_steps": 10, "warmup_num_steps": 2},
    "CosineAnnealingLR": {"T_max": 10},
    "StepLR": {"step_size": 3},
}
# A kernel that is for GPUs alone, or needs a compiler, a package or a model made for it: its name is checked.
NOT_HERE = {"Lamb", "Lion", "MuAdam", "MuAdamW", "MuSGD", "Muon", "LBFGS", "SparseAdam"}
ENGINES: dict[str, dict[str, Any]] = {
    **{
        f"{kind} {stage}": {
            **more,
            "optimizer": {
                "type": kind,
                "params": {"torch_adam": True} if kind in ("Adam", "AdamW") else {},
            },
        }
        for kind in TYPES.values()
        if kind not in NOT_HERE
        for stage, more in STAGES.items()
    },
    **{
        f"{kind} {stage}": {**more, "optimizer": ADAM, "scheduler": {"type": kind, "params": NEEDED.get(kind, {})}}
        for kind in (*SCHEMA.deepspeed_schedulers, "CosineAnnealingLR", "StepLR", "LinearLR")
        for stage, more in STAGES.items()
    },
    "SGD, old zero": {"optimizer": {"type": "SGD", "params": {}}, "zero_optimization": True},
    "SGD allowed": {
        "optimizer": {"type": "SGD", "params": {}},
        **STAGES["zero"],
        "zero_allow_untested_optimizer": True,
    },
    "no params": {"optimizer": ADAM, "scheduler": {"type": "WarmupLR"}},
    "no params of an optimizer": {"optimizer": {"type": "SGD"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_an_optimizer_or_schedule_is_an_error_just_where_the_engine_refuses_it(
    name: str, started: dict[str, str]
) -> None:
    ours = [f for f in check(json.dumps(MICRO | ENGINES[name])) if f.severity == ERROR]
    assert bool(ours) == bool(started[name]), (ours, started[name])


@pytest.mark.slow
def test_every_type_that_is_suggested_is_one_that_the_engine_starts(started: dict[str, str]) -> None:
    for meant in {meant for meant, _ in (*OPTIMIZER_NAMES.values(), *SCHEDULER_NAMES.values())}:
        if meant in NOT_HERE:
            assert meant.lower() in DEEPSPEED_OPTIMIZERS
        else:
            assert started[f"{meant} plain"] == ""
    assert {started[f"{kind} {stage}"] for kind in SCHEMA.deepspeed_schedulers for stage in STAGES} == {""}


def test_what_is_suggested_for_zero_is_followed_by_no_error() -> None:
    zero = {"zero_optimization": {"stage": 2}}
    for name in OPTIMIZER_NAMES:
        said = advice({"optimizer": {"type": name, "params": {}}, **zero}, "optimizer.type")
        allowed = {"zero_allow_untested_optimizer": True} if "zero_allow_untested_optimizer = true" in said else {}
        followed = {"optimizer": {"type": OPTIMIZER_NAMES[name][0], "params": {}}, **zero, **allowed}
        assert [f for f in found(followed, "optimizer.type") if f.severity == ERROR] == []


@pytest.mark.parametrize(
    ("config", "path", "said"),
    [
        ({"zero_optimization": {"cpu_offload": False}}, "zero_optimization.cpu_offload", "remove it"),
        ({"zero_optimization": {"cpu_offload": None}}, "zero_optimization.cpu_offload", "remove it"),
        ({"zero_optimization": {"cpu_offload": True}}, "zero_optimization.cpu_offload", '{"device": "cpu"}'),
        ({"zero_optimization": {"cpu_offload_param": False}}, "zero_optimization.cpu_offload_param", "remove it"),
        ({"zero_optimization": {"cpu-offload": False}}, "zero_optimization.cpu-offload", "remove it"),
        ({"zero_optimization": {"cpu-offload": True}}, "zero_optimization.cpu-offload", '{"device": "cpu"}'),
        ({"zero_optimization": {"offload_param": False}}, "zero_optimization.offload_param", "remove it"),
        ({"zero_optimization": {"offload_param": True}}, "zero_optimization.offload_param", 'write {"device": "cpu"}'),
        ({"fp16": False}, "fp16", "remove it"),
        ({"bf16": True}, "bf16", 'write {"enabled": true}'),
        ({"wall_clock_breakdown": 1}, "wall_clock_breakdown", "give boolean, for instance false"),
        ({"amp": {"enabled": False}}, "amp", "remove it: it is off"),
        ({"amp": {"enabled": True}}, "amp", "bf16, fp16 or torch_autocast"),
        ({"fp32_allreduce": False}, "fp32_allreduce", "remove it: it is off"),
        ({"fp32_allreduce": True}, "fp32_allreduce", "communication_data_type"),
        ({"curriculum_learning": {"enabled": False}}, "curriculum_learning", "remove it: it is off"),
        ({"zero_reduce_scatter": False}, "zero_reduce_scatter", "zero_optimization.reduce_scatter"),
        ({"allgather_bucket_size": 5e8}, "allgather_bucket_size", "it belongs under zero_optimization"),
        ({"bp16": {"enabled": True}}, "bp16", "DeepSpeed calls it bf16; or is fp16 meant?"),
        ({"bf16": {"loss_scale": 0}}, "bf16.loss_scale", "remove it: it belongs to fp16"),
        ({"pipeline": {"micro_batch_size": 4}}, "pipeline.micro_batch_size", "remove it"),
        ({"zero_optimization": {"comm_overlap": True}}, "zero_optimization.comm_overlap", "'overlap_comm'?"),
        ({"zero_optimization": {"device": "cpu"}}, "zero_optimization.device", "offload_param or "),
        ({"zero_allow_comm_data_type_fp32": True}, "zero_allow_comm_data_type_fp32", "remove it"),
        ({"sequence_parallel": {"enabled": True}}, "sequence_parallel", "remove it"),
        ({"tensor_parallel": {"tp_size": 2}}, "tensor_parallel.tp_size", "DeepSpeed calls it autotp_size"),
        ({"lr": 0.001}, "lr", "DeepSpeed calls it optimizer.params.lr"),
        ({"amsgrad": False}, "amsgrad", "it belongs under optimizer.params"),
        ({"optimizer": {"type": "AdamW", "lr": 1e-3}}, "optimizer.lr", "DeepSpeed calls it optimizer.params.lr"),
        ({"scheduler": {"type": "WarmupLR", "params": {}, "warmup_steps": 9}}, "scheduler.warmup_steps", "_num_steps"),
    ],
)  # fmt: skip
def test_advice_about_a_key_is_true_of_its_place_and_value(config: dict[str, Any], path: str, said: str) -> None:
    assert said in advice(config, path)


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("SGD", "eps", "remove it; this one takes lr, momentum, dampening, weight_decay, nesterov, "),
        ("SGD", "betas", "remove it; this one takes lr, momentum, "),
        ("AdamW", "momentum", "remove it; this one takes lr, betas, eps, "),
        ("AdamW", "patience", "remove it; this one takes lr, betas, eps, "),
        ("AdamW", "epsilon", "DeepSpeed calls it eps"),
        ("AdamW", "adamw_mode", "DeepSpeed calls it adam_w_mode"),
        ("AdamW", "warmup_num_steps", "it belongs under scheduler.params"),
        ("AdamW", "gradient_clipping", "it belongs under the top level"),
        ("AdamW", "grad_clip", "DeepSpeed calls it gradient_clipping, at the top level"),
        ("AdamW", "weigth_decay", "did you mean 'weight_decay'?"),
    ],
)
def test_an_optimizer_says_what_it_takes(kind: str, name: str, said: str) -> None:
    assert advice({"optimizer": {"type": kind, "params": {name: 0.9}}}, f"optimizer.params.{name}").startswith(said)


ONCE: list[dict[str, Any]] = [
    *({"optimizer": {"type": kind, "params": {"max_grad_norm": 1.0}}} for kind in ("AdamW", "SGD", "Muon")),
    *({"optimizer": {"type": kind, "params": {"freeze_step": 9}}} for kind in ("AdamW", "Lamb")),
    {"optimizer": {"type": "AdamW", "params": {"lr": "fast"}}},
    {"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 0}}},
    {"scheduler": {"type": "WarmupDecayLR", "params": {}}},
    {"scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 5, "warmup_num_steps": -3}}},
    {"scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 5, "warmup_num_steps": "ten"}}},
    {"scheduler": {"type": "OneCycle", "params": {}}},
    {"scheduler": {"type": "WarmupDecayLR"}},
    {
        "gradient_allreduce_op": "sum",
        "zero_optimization": {"stage": 3, "zenflow": {}},
        "compile": {"deepcompile": True},
    },
    {"zero_optimization": {"stage": 7}},
    {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu", "ratio": -0.5}}},
    {"train_batch_size": "8"},
    {"train_batch_size": -8},
]


@pytest.mark.parametrize("config", ONCE, ids=lambda config: json.dumps(config)[:60])
def test_one_fault_is_one_error(config: dict[str, Any]) -> None:
    batch = {} if "train_batch_size" in config else MICRO
    faults = [f for f in check(json.dumps(batch | config, indent=1)) if f.severity == ERROR]
    assert len(faults) == 1, faults


@pytest.mark.parametrize("kind", [{}, {"type": "Nothing"}], ids=["no-type", "unknown-type"])
def test_parameters_beside_an_unknown_type_are_looked_at_once(kind: dict[str, str]) -> None:
    config = MICRO | {"optimizer": {**kind, "params": {"max_grad_norm": 1.0}}}
    faults = [f.path for f in check(json.dumps(config)) if f.severity == ERROR]
    assert faults == ["optimizer" + ".type" * bool(kind), "optimizer.params.max_grad_norm"]


def test_no_key_of_the_public_corpus_has_two_errors(real_data: Path) -> None:
    folder = real_data / "ds_configs"
    with (folder / "index.tsv").open(encoding="utf-8", newline="") as file:
        names = [row["file"] for row in csv.DictReader(file, delimiter="\t")]
    read = 0
    for name in names:
        for framework in (None, "hf-trainer", "accelerate"):
            try:
                findings = check((folder / name).read_text(encoding="utf-8"), framework=framework)
            except SourceError:
                continue
            read += 1
            places = Counter((f.path, f.line) for f in findings if f.severity == ERROR)
            assert set(places.values()) <= {1}, (name, framework, places.most_common(1))
    assert read > 300
