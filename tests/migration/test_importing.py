"""Any DeepSpeed JSON becomes settings, a preset and a report."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from layoutner.deepspeed_config.hjson_source import read_source
from layoutner.errors import SettingsError
from layoutner.migration.importing import Imported, Line, import_config, to_toml
from layoutner.planning.batch_plan import plan_batch
from layoutner.planning.render import POLICY, preset_names, render
from layoutner.planning.schedule import plan_schedule
from layoutner.settings.tree import Settings, load


def read(config: dict[str, Any] | str, ranks: int | None = None) -> Imported:
    return import_config(config if isinstance(config, str) else json.dumps(config), ranks)


def line(imported: Imported, path: str) -> Line:
    (found,) = [line for line in imported.report if line.path == path]
    return found


def reload(imported: Imported, folder: Path) -> Settings:
    """The settings as the command line would load them from the files written."""
    preset, toml = folder / "preset.json", folder / "settings.toml"
    preset.write_text(json.dumps(imported.preset))
    toml.write_text(imported.toml(str(preset)), encoding="utf-8")
    return load(str(toml), {})


def rendered(settings: Settings, ranks: int) -> dict[str, Any]:
    batch = plan_batch(settings.batch.global_batch_size, settings.batch.micro_batch_size, ranks)
    return render(settings, batch, plan_schedule(settings.schedule, batch.global_batch_size, 1000))


def leaves(tree: Any, path: str = "") -> list[str]:
    if isinstance(tree, dict) and tree:
        return [leaf for key, value in tree.items() for leaf in leaves(value, f"{path}.{key}" if path else key)]
    return [path]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("warmup", ["10", "0"])
def test_what_render_wrote_comes_back(preset: str, dtype: str, warmup: str, tmp_path: Path) -> None:
    overrides = {
        "schedule": {"max_steps": "100", "warmup_steps": warmup},
        "batch": {"global_batch_size": "16", "micro_batch_size": "4"},
        "deepspeed": {"preset": preset},
        "precision": {"dtype": dtype, "initial_scale_power": "12", "hysteresis": "3", "min_loss_scale": "2"},
        "optimizer": {"lr": "3e-4", "weight_decay": "0.02", "betas": "0.8,0.9", "eps": "1e-7", "max_grad_norm": "0.7"},
    }
    written = rendered(load(None, overrides), 2)
    imported = read(written, 2)
    assert rendered(reload(imported, tmp_path), 2) == written
    assert [(found.path, found.value) for found in imported.report if found.what != "kept" and found.value] == []


def test_a_foreign_config_keeps_its_meaning(tmp_path: Path) -> None:
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 0.5,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-5, "betas": [0.9, 0.95], "torch_adam": True}},
        "scheduler": {
            "type": "WarmupDecayLR",
            "params": {
                "total_num_steps": 500, "warmup_num_steps": 50, "warmup_max_lr": 3e-5, "warmup_min_lr": 0,
                "warmup_type": "linear",
            },
        },
        "fp16": {"enabled": True, "loss_scale": 128, "loss_scale_window": 200},
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 5e7, "cpu_offload": True},
        "data_types": {"grad_accum_dtype": "fp16"},
    }  # fmt: skip
    imported = read(config, 4)
    again = rendered(reload(imported, tmp_path), 4)
    assert [again[key] for key in list(config)[:3]] == [2, 4, 0.5]
    assert again["train_batch_size"] == 32
    # 0.01 is torch.optim.AdamW's weight decay; warmup_max_lr is the rate that was used.
    params = {"lr": 3e-5, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.01, "torch_adam": True, "fused": True}
    assert again["optimizer"]["params"] == params
    assert again["scheduler"] == {"type": "WarmupDecayLR", "params": {**config["scheduler"]["params"]}}  # type: ignore[index]
    assert (again["fp16"]["loss_scale"], again["fp16"]["loss_scale_window"]) == (128, 200)
    offload = {"device": "cpu"}
    assert again["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 50_000_000, "offload_optimizer": offload}
    assert again["data_types"] == {"grad_accum_dtype": "fp16"}
    assert "overrides it" in line(imported, "optimizer.params.lr").why
    assert line(imported, "zero_optimization.cpu_offload").what == "changed"


HF = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto"}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": "auto", "warmup_num_steps": "auto"}},
    "fp16": {"enabled": "auto"},
    "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "overlap_comm": True},
}


def test_auto_is_left_to_the_defaults(tmp_path: Path) -> None:
    imported = read(HF, 2)
    assert imported.settings == {"optimizer": {"name": "adamw"}, "schedule": {"shape": "constant"}}
    assert imported.preset == {"zero_optimization": {"stage": 3, "overlap_comm": True}}
    assert "auto" not in json.dumps(imported.preset)
    autos = [found for found in imported.report if found.value == "auto"]
    assert all(found.what == "dropped" and "Hugging Face" in found.why for found in autos)
    assert "batch.global_batch_size = 16" in line(imported, "train_batch_size").why
    assert "500000000" in line(imported, "zero_optimization.reduce_bucket_size").why
    assert reload(imported, tmp_path).precision.dtype == "bf16"


@pytest.mark.parametrize(
    ("config", "ranks", "batch"),
    [
        ({"train_batch_size": 32}, None, {"global_batch_size": 32}),
        ({"train_batch_size": 32}, 4, {"global_batch_size": 32, "micro_batch_size": 8}),
        (
            {"train_batch_size": 32, "gradient_accumulation_steps": 4},
            2,
            {"global_batch_size": 32, "micro_batch_size": 4},
        ),
        ({"train_micro_batch_size_per_gpu": 2}, 4, {"global_batch_size": 8, "micro_batch_size": 2}),
        ({"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3}, None, {"micro_batch_size": 2}),
        ({"train_batch_size": 0, "train_micro_batch_size_per_gpu": "8"}, 1, None),
        ({"gradient_accumulation_steps": 8}, 2, None),
    ],
)
def test_batch(config: dict[str, Any], ranks: int | None, batch: dict[str, int] | None) -> None:
    assert read(config, ranks).settings.get("batch") == batch


def test_a_global_batch_needs_the_world_size() -> None:
    imported = read({"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3})
    assert "give --world-size" in line(imported, "gradient_accumulation_steps").why
    assert "give --world-size" in line(read({"train_micro_batch_size_per_gpu": 2}), "train_batch_size").why


ADAM = "optimizer.params"


@pytest.mark.parametrize(
    ("optimizer", "settings", "path", "what", "why"),
    [
        ({"type": "Adam"}, {"name": "adamw", "lr": 1e-3}, "optimizer.type", "changed", "Adam is AdamW"),
        ({"type": "Adam", "params": {"lr": 1, "adam_w_mode": False}}, {"name": "adamw", "lr": 1.0},
         f"{ADAM}.adam_w_mode", "dropped", "decouples"),
        ({"type": "AdamW", "params": {"lr": "1e-5"}}, {"name": "adamw"}, f"{ADAM}.lr", "dropped", "quotes"),
        ({"type": "AdamW", "params": {"lr": 0}}, {"name": "adamw"}, f"{ADAM}.lr", "dropped", "greater than 0"),
        ({"type": "AdamW", "params": {"lr": 1, "amsgrad": True}}, {"name": "adamw", "lr": 1.0},
         f"{ADAM}.amsgrad", "dropped", "setting"),
        ({"type": "SGD", "params": {"lr": 0.1, "momentum": 0.9}}, {"name": "adamw", "lr": 0.1},
         f"{ADAM}.lr", "changed", "chosen for SGD"),
        ({"type": "OneBitAdam"}, {"name": "adamw"}, "optimizer.type", "changed", "removed in DeepSpeed 0.19.7"),
        ({"type": "Lamb", "params": {"lr": 0.01, "max_coeff": 0.3, "bias_correction": True}},
         {"name": "lamb", "lr": 0.01, "max_trust_ratio": 0.3, "eps": 1e-8, "min_trust_ratio": 0.01,
          "variant": "nvlamb"}, "optimizer.type", "changed", "every parameter a trust ratio"),
        ({"type": "Lion", "params": {"betas": [0.95, 0.98]}}, {"name": "lion", "betas": [0.95, 0.98], "lr": 1e-3},
         f"{ADAM}.betas", "kept", ""),
        ({"type": "Lion", "params": {"lr": "auto", "eps": 1e-7}}, {"name": "lion", "betas": [0.9, 0.999]},
         f"{ADAM}.eps", "dropped", "unknown key"),
        ({"type": "Lion", "params": {"betas": "auto"}}, {"name": "lion", "lr": 1e-3},
         f"{ADAM}.betas", "dropped", "its default optimizer.betas = (0.9, 0.99)"),
        ({"type": "Lamb", "params": {"eps_inside_sqrt": True}},
         {"name": "lamb", "lr": 1e-3, "eps": 1e-8, "min_trust_ratio": 0.01, "max_trust_ratio": 10.0,
          "variant": "nvlamb"}, f"{ADAM}.eps_inside_sqrt", "dropped", "setting"),
        ({"params": {"lr": 0.1}}, None, f"{ADAM}.lr", "dropped", "does not read it"),
        ({"type": "AdamW", "params": {"lr": 1, "max_grad_norm": 1.0}}, {"name": "adamw", "lr": 1.0},
         f"{ADAM}.max_grad_norm", "dropped", "gradient_clipping"),
    ],
)  # fmt: skip
def test_optimizer(optimizer: Any, settings: Any, path: str, what: str, why: str) -> None:
    imported = read({"optimizer": optimizer})
    assert imported.settings.get("optimizer") == settings
    found = line(imported, path)
    assert found.what == what
    assert why in found.why


@pytest.mark.parametrize(
    ("kind", "params", "schedule", "changed"),
    [
        ("WarmupDecayLR", {"total_num_steps": 9, "warmup_num_steps": 1}, {"warmup_steps": 2, "max_steps": 9},
         "scheduler.params.warmup_num_steps"),
        ("WarmupDecayLR", {"total_num_steps": 9000}, {"max_steps": 9000, "warmup_steps": 1000},
         "scheduler.params.warmup_type"),
        ("WarmupLR", {"warmup_num_steps": 5, "warmup_type": "log"}, {"shape": "constant", "warmup_steps": 5},
         "scheduler.params.warmup_type"),
        ("WarmupLR", {"warmup_num_steps": 5}, {"shape": "constant", "warmup_steps": 5},
         "scheduler.params.total_num_steps"),
        ("WarmupCosineLR", {"total_num_steps": 9, "warmup_num_steps": 5},
         {"shape": "cosine", "warmup_steps": 5, "max_steps": 9}, "scheduler.type"),
        ("OneCycle", {"cycle_min_lr": 0.1, "cycle_max_lr": 0.2}, None, "scheduler.type"),
    ],
)  # fmt: skip
def test_schedule(kind: str, params: Any, schedule: Any, changed: str) -> None:
    imported = read({"scheduler": {"type": kind, "params": params}})
    assert imported.settings.get("schedule") == schedule
    assert line(imported, changed).what == "changed"
    # WarmupDecayLR's default overrides whatever the optimizer says.
    assert imported.settings.get("optimizer") == ({"lr": 0.001} if kind == "WarmupDecayLR" else None)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({}, "fp32"),
        ({"fp16": {"enabled": False}, "bf16": {"enabled": False}}, "fp32"),
        ({"fp16": {"loss_scale": 0}}, "fp32"),
        ({"bf16": {"enabled": True}, "fp16": {"enabled": False}}, "bf16"),
        ({"bfloat16": {"enabled": True}}, "bf16"),
        ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, "bf16"),
        ({"fp16": {"enabled": True}}, "fp16"),
        ({"fp16": {"enabled": "auto"}}, None),
        ({"fp16": {"enabled": "auto"}, "bf16": {"enabled": False}}, "fp32"),
        ({"torch_autocast": {"enabled": True, "dtype": "torch.bfloat16"}}, "bf16"),
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, "fp16"),
    ],
)
def test_precision(config: Any, dtype: str | None) -> None:
    assert read(config).settings.get("precision", {}).get("dtype") == dtype


@pytest.mark.parametrize(
    ("zero", "preset", "stage"),
    [
        ({"stage": 2}, None, 2),
        (True, None, 1),
        (False, None, 0),
        ({}, None, 0),
        ({"stage": "auto"}, None, None),
        ({"stage": 4, "overlap_comm": True}, {"overlap_comm": True}, None),
        ({"stage": 1, "mics_shard_size": 4}, None, 1),
        ({"cpu_offload": True, "offload_optimizer": None}, {"offload_optimizer": {"device": "cpu"}}, None),
        ({"stage": 3, "offload_param": {"device": "auto"}}, None, 3),
        ({"stage": 2, "compute_grad_norm": False}, None, 2),
    ],
)
def test_zero(zero: Any, preset: Any, stage: int | None) -> None:
    imported = read({"zero_optimization": zero})
    assert (imported.preset or {}).get("zero_optimization") == preset
    assert imported.settings.get("deepspeed", {}).get("zero_stage") == stage


def test_the_rest() -> None:
    imported = read("""{
        // HJSON
        wandb: {enabled: true, team: "us", group: "g"}
        tensorboard: {enabled: true}
        steps_per_print: 50
        wall_clock_breakdown: true
        gradient_clipping: true
        elasticity: {enabled: true}
        gradient_clippping: 1.0
        sequence_parallel_size: 2
        steps_per_print: 60
    }""")
    assert imported.settings["wandb"] == {"mode": "online", "entity": "us", "project": "deepspeed"}
    assert imported.settings["run"] == {"log_every": 60}
    assert imported.preset == {"wall_clock_breakdown": True}
    reasons = {found.path: found.why for found in imported.report if found.what == "dropped"}
    assert "metrics.jsonl" in reasons["tensorboard.enabled"]
    assert "removed in DeepSpeed 0.19.8" in reasons["elasticity.enabled"]
    assert "gradient_clipping" in reasons["gradient_clippping"]
    assert {"gradient_clipping", "wandb.group", "sequence_parallel_size"} <= set(reasons)
    assert "has this key twice" in line(imported, "steps_per_print").why


@pytest.mark.parametrize("text", ["", "[]", "3", '{"a": ', '"x"'])
def test_what_cannot_be_read(text: str) -> None:
    with pytest.raises(SettingsError):
        import_config(text, None)
    with pytest.raises(SettingsError, match="at least one rank"):
        import_config("{}", 0)


def test_toml_holds_any_text_and_number() -> None:
    tree = {"optimizer": {"lr": 5e-5, "betas": [0.9, 1e-16]}, "wandb": {"project": 'a"\\\n\x7f\x01é😀', "tags": []}}
    assert tomllib.loads(to_toml(tree)) == tree


def test_real_configs(real_data: Path, tmp_path: Path) -> None:
    """Of other projects: no crash, every leaf said once, loadable, and rendered where the numbers are there."""
    loaded, done = 0, 0
    refusals: set[str] = set()
    for path in sorted((real_data / "ds_configs").iterdir()):
        if path.suffix in (".tsv", ".txt", ".md"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for ranks in (None, 8):
            try:
                imported = import_config(text, ranks)
            except SettingsError:
                continue
            loaded += 1
            reported = [found.path for found in imported.report]
            assert len(reported) == len(set(reported)), path.name
            assert set(leaves(read_source(text).value())) <= set(reported), path.name
            assert all(found.why for found in imported.report if found.what != "kept"), path.name
            assert set(imported.preset or {}) <= set(POLICY)
            settings = reload(imported, tmp_path)
            batch = settings.batch
            ranks = ranks or batch.global_batch_size // batch.micro_batch_size
            if settings.schedule.max_steps is None:
                length = settings.schedule.model_copy(update={"max_steps": 10**7})
                settings = settings.model_copy(update={"schedule": length})
            try:
                config = rendered(settings, ranks)
            except SettingsError as error:
                refusals.add(str(error).partition(" = ")[0])
                continue
            done += 1
            assert config["zero_optimization"].items() >= (imported.preset or {}).get("zero_optimization", {}).items()
    assert loaded > 200
    assert done > 150
    assert refusals <= {"schedule.warmup_steps", "world size"}
