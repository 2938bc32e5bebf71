"""Render the DeepSpeed config of a run, from its settings and the number of ranks."""

import json
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from layoutner.deepspeed_config.check import check
from layoutner.deepspeed_config.finding import ERROR
from layoutner.deepspeed_config.hjson_source import read_source
from layoutner.deepspeed_config.schema import installed_schema
from layoutner.deepspeed_config.walk import Walk
from layoutner.errors import SettingsError, did_you_mean, raise_gathered
from layoutner.planning.batch_plan import BatchPlan
from layoutner.planning.optimizers import OPTIMIZERS
from layoutner.planning.scaling import lr_follows_ramp, scaled_optimizer
from layoutner.planning.schedule import Schedule
from layoutner.settings.optimizer import AdamW
from layoutner.settings.shipped import shipped_folder
from layoutner.settings.tree import DeepSpeedSettings, Settings

PRESETS = "ds_configs"  # folder of the presets

# DeepSpeed keys that are set from Settings. A preset must not set them, or there would be two sources for one value.
OWNED = {
    "train_batch_size": "batch.global_batch_size",
    "train_micro_batch_size_per_gpu": "batch.micro_batch_size",
    "gradient_accumulation_steps": "batch.global_batch_size and batch.micro_batch_size",
    "managed_gradient_accumulation": "the training loop",
    "gradient_allreduce_op": "the exact loss",
    "gradient_clipping": "optimizer.max_grad_norm",
    "optimizer": "[optimizer]",
    "zero_allow_untested_optimizer": "optimizer.name",
    "scheduler": "[schedule]",
    "fp16": "[precision]",
    "bf16": "[precision]",
    "torch_autocast": "[precision]",
    "steps_per_print": "run.log_every",
    "wandb": "[wandb]",
}

# Engine policy: the top-level keys that a preset may set.
POLICY = (
    "zero_optimization",
    "zero_force_ds_cpu_optimizer",
    "communication_data_type",
    "prescale_gradients",
    "gradient_predivide_factor",
    "data_types",
    "activation_checkpointing",
    "aio",
    "checkpoint",
    "comms_logger",
    "compile",
    "disable_python_gc",
    "dump_state",
    "flops_profiler",
    "memory_breakdown",
    "use_node_local_storage",
    "wall_clock_breakdown",
)


# Keys of zero_optimization with which a step would not be exact, or a checkpoint not hold what was trained.
REFUSED = {
    ("compute_grad_norm",): "the run logs the gradient norm",
    (
        "round_robin_gradients",
    ): "DeepSpeed then mixes up which fp32 weights belong to which parameter, so no checkpoint would be right",
    ("zenflow",): "ZenFlow updates some weights later than others, and mixes up which fp32 weights belong to which "
    "parameter",
    (
        "offload_optimizer",
        "ratio",
    ): "the weights whose optimizer stays on the GPU would be left out of the learning rate and of checkpoints",
    (
        "offload_optimizer",
        "super_offload",
    ): "the optimizer then lives in another process, where no checkpoint reaches it",
    ("offload_optimizer", "device"): "NVMe is not tested; cpu is",
    ("offload_param", "device"): "a resumed run would begin with wrong weights from NVMe; use cpu",
    ("zero_quantized_weights",): "weights would be gathered, and stored, in 8 bits",
    ("zero_quantized_nontrainable_weights",): "frozen weights would be rounded to whole numbers",
    ("zero_quantized_gradients",): "gradients would be averaged in few bits, which is not exact",
}
# Values that are fine, by the last part of the key; None or false for others.
FINE: dict[str, tuple[Any, ...]] = {
    "compute_grad_norm": (None, True),
    "ratio": (None, 1),
    "device": (None, "none", "cpu"),
}


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    return sorted(e.name.removesuffix(".json") for e in shipped_folder(PRESETS).iterdir() if e.name.endswith(".json"))


def load_preset(settings: DeepSpeedSettings) -> dict[str, Any]:
    """Load the preset of a run, by name or path, or the default preset of its ZeRO stage.

    Raises:
        SettingsError: no such preset, not JSON, an owned or unknown key, "auto", or a stage that contradicts
            deepspeed.zero_stage.
    """
    name = settings.preset or f"zero{settings.zero_stage or 0}"
    source: Traversable
    if name in preset_names():
        source = shipped_folder(PRESETS) / f"{name}.json"
    elif Path(name).is_file():
        source = Path(name)
    else:
        raise SettingsError(
            f"deepspeed.preset = {name!r}: no such file or preset; {did_you_mean(name, preset_names())}"
        )
    try:
        root = read_source(source.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"preset {name}: not readable as JSON: {error}") from None
    preset = root.value()
    if not isinstance(preset, dict):
        raise SettingsError(f"preset {name}: holds {type(preset).__name__}, not an object")
    problems = [
        f"{key} is owned by {OWNED[key]}: set it there, and remove it from the preset" for key in preset if key in OWNED
    ]
    problems += [f"{key} is not allowed in a preset: remove it" for key in preset if _is_foreign(key)]
    walk = Walk(framework=None)
    walk.object(root, walk.schema.top)
    problems += [f"{found.path}: {found.message}; {found.advice}" for found in walk.findings if found.severity == ERROR]
    if isinstance(preset.get("zero_optimization"), bool):
        problems.append("zero_optimization: true or false is the old way to write it; give an object with a stage")
    raise_gathered(SettingsError, f"preset {name} cannot be used", problems)
    zero = preset.setdefault("zero_optimization", {})
    problems = []
    for path in REFUSED:
        value: Any = zero
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        if why := why_refused(path, value):
            problems.append(f"zero_optimization.{'.'.join(path)} = {json.dumps(value)}: remove it, {why}")
    raise_gathered(SettingsError, f"preset {name} cannot be used", problems)
    stage = zero.setdefault("stage", 0)
    if settings.zero_stage is not None and settings.zero_stage != stage:
        raise SettingsError(
            f"deepspeed.zero_stage = {settings.zero_stage}, but preset {name} says stage {stage}: "
            "give one of the two, or make them agree"
        )
    return preset


def why_refused(path: tuple[str, ...], value: Any) -> str:
    """Why a preset may not have this value at a path below zero_optimization; "" if it may."""
    for key, why in REFUSED.items():
        if path[: len(key)] == key and (len(path) > len(key) or value not in FINE.get(key[-1], (None, False))):
            return why
    return ""


def _is_foreign(key: str) -> bool:
    """Whether DeepSpeed has this key, but it is neither set from Settings nor allowed in a preset."""
    return key in installed_schema().top.keys and key not in OWNED and key not in POLICY


def render(settings: Settings, batch: BatchPlan, schedule: Schedule) -> dict[str, Any]:
    """The DeepSpeed config of a run. Every value that Settings determine is written out, even if it is the default.

    Raises:
        SettingsError: the preset cannot be used (see load_preset), or contradicts the settings.
    """
    preset = load_preset(settings.deepspeed)
    optimizer, precision = scaled_optimizer(settings), settings.precision
    config: dict[str, Any] = {
        "train_batch_size": batch.deepspeed_batch_size,
        "train_micro_batch_size_per_gpu": batch.micro_batch_size,
        "gradient_accumulation_steps": batch.accumulation,
        "gradient_clipping": optimizer.max_grad_norm,
        "steps_per_print": None,
    }
    if isinstance(optimizer, AdamW):
        params = {
            "lr": optimizer.lr,
            "betas": list(optimizer.betas),
            "eps": optimizer.eps,
            "weight_decay": optimizer.weight_decay,
            # Not DeepSpeed's Adam, which is compiled at the first step.
            "torch_adam": True,
            "fused": True,
        }
        config["optimizer"] = {"type": OPTIMIZERS[optimizer.name].deepspeed, "params": params}
    else:
        # layoutner's own optimizer is given to DeepSpeed as an object, which this JSON cannot name.
        config["zero_allow_untested_optimizer"] = True
    if schedule.in_deepspeed and not lr_follows_ramp(settings):
        config["scheduler"] = {
            "type": "WarmupDecayLR",
            "params": {
                "total_num_steps": schedule.deepspeed_total_num_steps,
                "warmup_min_lr": 0.0,
                "warmup_max_lr": optimizer.lr,
                "warmup_num_steps": schedule.deepspeed_warmup_num_steps,
                "warmup_type": "linear",
            },
        }
    if precision.dtype == "fp16":
        config["fp16"] = {
            "enabled": True,
            "loss_scale": precision.loss_scale,
            "initial_scale_power": precision.initial_scale_power,
            "loss_scale_window": precision.loss_scale_window,
            "hysteresis": precision.hysteresis,
            "min_loss_scale": precision.min_loss_scale,
        }
    elif precision.dtype == "bf16":
        config["bf16"] = {"enabled": True}
    if precision.dtype != "fp32" and preset["zero_optimization"]["stage"] > 0:
        # Accumulate gradients in fp32. At stage 0 DeepSpeed can only accumulate in the dtype of the weights.
        preset.setdefault("data_types", {}).setdefault("grad_accum_dtype", "fp32")
    config |= preset
    if not isinstance(optimizer, AdamW):
        config["zero_force_ds_cpu_optimizer"] = False  # DeepSpeed would insist on its own Adam for offloaded states
    # Run the checks of `layoutner config check`, so that contradictions are found before a GPU is used.
    findings = check(json.dumps(config), batch.world_size)
    problems = [f"{found.path}: {found.message}; {found.advice}" for found in findings if found.severity == ERROR]
    raise_gathered(SettingsError, "the DeepSpeed config of these settings contradicts itself", problems)
    return config
