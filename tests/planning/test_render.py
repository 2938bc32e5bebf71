"""The DeepSpeed JSON, read back through DeepSpeed's own config."""

import json
from pathlib import Path
from typing import Any

import pytest

from layoutner.errors import SettingsError
from layoutner.planning.batch_plan import plan_batch
from layoutner.planning.render import preset_names, render
from layoutner.planning.schedule import plan_schedule
from layoutner.settings.tree import load


def rendered(ranks: int = 2, **overrides: dict[str, str]) -> dict[str, Any]:
    base = {
        "schedule": {"max_steps": "100", "warmup_steps": "10"},
        "batch": {"global_batch_size": "16", "micro_batch_size": "4"},
    }
    settings = load(None, {**base, **overrides})
    batch = plan_batch(settings.batch.global_batch_size, settings.batch.micro_batch_size, ranks)
    return render(settings, batch, plan_schedule(settings.schedule, 16, None))


@pytest.mark.parametrize("preset", ["zero0", "zero1", "zero2", "zero3"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_deepspeed_reads_what_was_meant(preset: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import deepspeed.comm
    from deepspeed.runtime.config import DeepSpeedConfig

    monkeypatch.setattr(deepspeed.comm, "get_world_size", lambda group=None: 2)
    monkeypatch.setattr(deepspeed.comm, "is_initialized", lambda: True)
    monkeypatch.setattr(deepspeed.comm, "get_rank", lambda group=None: 0)
    config = rendered(
        deepspeed={"preset": preset},
        precision={"dtype": dtype, "initial_scale_power": "12", "hysteresis": "3", "loss_scale_window": "50"},
        optimizer={"lr": "3e-4", "weight_decay": "0.02", "betas": "0.8,0.9", "eps": "1e-7", "max_grad_norm": "0.7"},
    )
    read = DeepSpeedConfig(json.loads(json.dumps(config)))
    assert (read.train_batch_size, read.train_micro_batch_size_per_gpu, read.gradient_accumulation_steps) == (16, 4, 2)
    assert read.gradient_clipping == 0.7
    assert read.steps_per_print is None
    assert read.zero_optimization_stage == int(preset[-1])
    assert read.optimizer_name == "adamw"
    params = read.optimizer_params
    assert (params["lr"], params["weight_decay"], params["betas"], params["eps"]) == (3e-4, 0.02, [0.8, 0.9], 1e-7)
    assert read.scheduler_name == "WarmupDecayLR"
    assert read.scheduler_params == {
        "total_num_steps": 100,
        "warmup_min_lr": 0.0,
        "warmup_max_lr": 3e-4,
        "warmup_num_steps": 10,
        "warmup_type": "linear",
    }
    assert read.float16_config.enabled == (dtype == "fp16")
    assert read.bfloat16_config.enabled == (dtype == "bf16")
    if dtype == "fp16":
        fp16 = read.float16_config
        assert (fp16.loss_scale, fp16.initial_scale_power, fp16.hysteresis) == (0, 12, 3)
        assert (fp16.loss_scale_window, fp16.min_loss_scale) == (50, 1)


def test_nothing_is_auto_and_rendering_repeats() -> None:
    for name in preset_names():
        config = rendered(deepspeed={"preset": name})
        assert "auto" not in json.dumps(config)
        assert config == rendered(deepspeed={"preset": name})


def test_a_warm_up_of_zero_is_shifted_to_what_deepspeed_can_express() -> None:
    params = rendered(schedule={"max_steps": "100"})["scheduler"]["params"]
    assert (params["warmup_num_steps"], params["total_num_steps"]) == (2, 102)


def test_zero_stage_alone_names_the_preset() -> None:
    assert rendered(deepspeed={"zero_stage": "3"})["zero_optimization"]["stage"] == 3
    assert rendered()["zero_optimization"]["stage"] == 0


def test_a_preset_by_path(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"zero_optimization": {"stage": 2}, "wall_clock_breakdown": true}')
    config = rendered(deepspeed={"preset": str(own)})
    assert config["wall_clock_breakdown"] is True
    assert config["zero_optimization"]["stage"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"train_batch_size": 8, "fp16": {}}',
            r"train_batch_size is owned by batch.global_batch_size(.|\n)*fp16 is owned",
        ),
        ('{"zero_optimizaton": {}}', "zero_optimizaton: unknown key; .*did you mean 'zero_optimization'"),
        (
            '{"zero_optimization": {"reduce_bucket_size": "auto"}}',
            'zero_optimization.reduce_bucket_size: "auto" means nothing',
        ),
        ('{"zero_optimization": {"stage": 1, "compute_grad_norm": false}}', "the run logs the gradient norm"),
        ('{"zero_optimization": {"stage": 2, "round_robin_gradients": true}}', "no checkpoint(.|\n)*would be right"),
        (
            '{"zero_optimization": {"stage": 2, "zenflow": {"topk_ratio": 0.1}}}',
            "zenflow = .*updates some weights later",
        ),
        (
            '{"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu", "ratio": 0.5}}}',
            "zero_optimization.offload_optimizer.ratio = 0.5: remove it, the weights whose optimizer stays",
        ),
        (
            '{"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/tmp"}}}',
            'offload_param.device = "nvme": remove it, a resumed run would begin with wrong weights',
        ),
        ('{"zero_optimization": {"stage": 3, "zero_quantized_weights": true}}', "stored, in 8 bits"),
        ('{"zero_optimization": {"stgae": 2}}', "did you mean 'stage'"),
        ('{"zero_optimization": {"stage": 7}}', "zero_optimization.stage: 7 is"),
        ('{"zero_optimization": null}', "zero_optimization: expected object or boolean, found null"),
        ('{"zero_optimization": true}', "give an object with a stage"),
        ('{"data_types": {"grad_accum_dtype": "fp32"}}', "contradicts itself(.|\n)*fails to start at ZeRO 0"),
        ('{"dataloader_drop_last": true}', "dataloader_drop_last is not allowed in a preset"),
        ("[]", "holds list, not an object"),
        ("{", "not readable as JSON"),
    ],
)
def test_a_preset_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text(text)
    with pytest.raises(SettingsError, match=message):
        rendered(deepspeed={"preset": str(own)})


def test_preset_and_stage_must_agree() -> None:
    with pytest.raises(SettingsError, match="preset zero1 says stage 1"):
        rendered(deepspeed={"preset": "zero1", "zero_stage": "2"})
    with pytest.raises(SettingsError, match="did you mean 'zero3'"):
        rendered(deepspeed={"preset": "zero_3"})


@pytest.mark.parametrize("name", ["lamb", "lars", "lion", "muon"])
def test_the_json_names_no_optimizer_that_deepspeed_does_not_run(name: str) -> None:
    config = rendered(optimizer={"name": name}, deepspeed={"zero_stage": "2"})
    assert "optimizer" not in config
    assert config["zero_allow_untested_optimizer"] is True
    assert config["scheduler"]["type"] == "WarmupDecayLR"
    assert "zero_allow_untested_optimizer" not in rendered(deepspeed={"zero_stage": "2"})


@pytest.mark.parametrize("shape", ["cosine", "polynomial", "constant", "1-sqrt"])
def test_the_json_names_no_scheduler_that_deepspeed_does_not_run(shape: str) -> None:
    base = {"max_steps": "100", "warmup_steps": "10"}
    assert "scheduler" not in rendered(schedule={**base, "shape": shape})
