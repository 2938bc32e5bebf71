"""Convert the DeepSpeed JSON of any project to settings, a preset (if it has engine policy) and a report."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from layoutner.deepspeed_config.hjson_source import Node, SourceError, read_source
from layoutner.deepspeed_config.notes.removed import REMOVED
from layoutner.deepspeed_config.schema import installed_schema
from layoutner.errors import SettingsError
from layoutner.migration.import_reader import (
    CHANGED,
    DROPPED,
    KEPT,
    LOSS_SCALE,
    LR,
    OPTIMIZER,
    REASONS,
    SETTING_OF,
    TRUST_RATIO,
    TYPE,
    WANDB,
    ZERO,
    Line,
    Path,
    Reading,
)
from layoutner.planning.render import POLICY, why_refused
from layoutner.settings.tree import sections

__all__ = ["Imported", "Line", "import_config", "to_toml"]

# scheduler.type of DeepSpeed -> schedule.shape, and what differs
_CURVES = {
    "WarmupDecayLR": ("linear", ""),
    "WarmupLR": ("constant", ""),
    "WarmupCosineLR": ("cosine", "DeepSpeed's never reaches its peak and ends at cos_min_ratio; layoutner's ends at 0"),
}
DEEPSPEED_LAMB = (
    "DeepSpeed's LAMB gives every parameter a trust ratio, and corrects the bias of the moments after the trust ratio; "
    "layoutner's corrects it before, as the paper does"
)
RENAMED = {  # deprecated key of zero_optimization -> its replacement
    "cpu_offload": ("offload_optimizer", "device"),
    "cpu_offload_param": ("offload_param", "device"),
    "stage3_gather_fp16_weights_on_model_save": ("stage3_gather_16bit_weights_on_model_save",),
}


@dataclass(frozen=True)
class Imported:
    """Settings, preset and report made from a DeepSpeed JSON."""

    settings: dict[str, dict[str, object]]  # section -> key -> value; only what follows from the JSON
    preset: dict[str, object] | None  # engine policy; it never contains "auto"
    report: list[Line]

    def toml(self, preset_path: str | None) -> str:
        """The settings as TOML. `preset_path` is the file to which the caller writes the preset, if there is one."""
        tree = dict(self.settings)
        if self.preset is not None and preset_path is not None:
            tree["deepspeed"] = {**tree.get("deepspeed", {}), "preset": preset_path}
        missing = "[model], [data]" + ("" if "max_steps" in tree.get("schedule", {}) else ", [schedule] epochs")
        return f"# Made by `layoutner config import` from a DeepSpeed JSON. Still needed: {missing}.\n{to_toml(tree)}"


def to_toml(tree: Mapping[str, Mapping[str, object]]) -> str:
    """Write sections as TOML. Strings, numbers, booleans and lists look the same as in JSON."""
    blocks = []
    for section in sections():
        if values := tree.get(section):
            lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
            blocks.append("\n".join([f"\n[{section}]", *lines]).replace("\x7f", "\\u007f"))
    return "\n".join([*blocks, ""])


def import_config(text: str, world_size: int | None) -> Imported:
    """Translate a DeepSpeed JSON or HJSON, with or without Hugging Face's "auto".

    Args:
        text: the contents of the file.
        world_size: number of ranks of the run; needed if the JSON has no train_batch_size.

    Raises:
        SettingsError: the text is neither JSON nor HJSON, or not an object; a world size below 1.
    """
    if world_size is not None and world_size < 1:
        raise SettingsError(f"--world-size {world_size}: at least one rank is needed")
    try:
        root = read_source(text)
    except SourceError as error:
        raise SettingsError(f"neither JSON nor HJSON: {error}") from None
    if root.members is None or not text.strip():
        raise SettingsError("not a DeepSpeed config: expected an object, { ... }")
    return _Importer(world_size).run(root)


class _Importer(Reading):
    """The rules that turn the leaves of a DeepSpeed JSON into settings."""

    def run(self, root: Node) -> Imported:
        """Apply all rules to a file."""
        data = root.value()
        self.visit(root, installed_schema().top, (), data if isinstance(data, dict) else {})
        preset = self.policy()
        self.batch()
        self.optimizer()
        self.schedule()
        self.precision(preset or {})
        for name, (section, key) in WANDB.items():
            if (value := self.values.get(("wandb", name))) is not None:
                setting = value if name != "enabled" else ("online" if value else "disabled")
                self.keep(("wandb", name), section, key, setting)
        if self.values.get(("wandb", "enabled")):
            self.default(("wandb", "project"), "deepspeed")
        for name in ("gradient_clipping", "steps_per_print"):
            if self.values.get((name,)) is not None:
                self.keep((name,), *SETTING_OF[(name,)], self.values[(name,)])
        for path in self.leaves:
            if path not in self.lines:
                self.say(DROPPED, path, "", self.reason(path))
        notes = [line for path, line in self.lines.items() if path not in self.leaves]
        order = [name for name in sections() if name in self.settings]
        return Imported(
            {name: self.settings[name] for name in order}, preset, [*(self.lines[path] for path in self.leaves), *notes]
        )

    def batch(self) -> None:
        """Compute global batch size and micro-batch size from those of DeepSpeed's three numbers that are given."""
        total, micro = ("train_batch_size",), ("train_micro_batch_size_per_gpu",)
        steps = ("gradient_accumulation_steps",)
        tb, mb, acc = (self.values.get(path) for path in (total, micro, steps))
        ranks = self.world_size
        if mb is not None:
            self.keep(micro, "batch", "micro_batch_size", mb)
        if tb is not None:
            self.keep(total, "batch", "global_batch_size", tb)
            size, rest = divmod(tb, (acc or 1) * (ranks or 1))
            if mb is None and ranks and not rest and size and not self.auto(micro) and not self.auto(steps):
                why = f"{tb} / ({acc or 1} gradient accumulation step(s) x {ranks} rank(s))"
                self.keep(micro, "batch", "micro_batch_size", size, KEPT, why)
            if acc is not None:
                at_once = (mb or 1) * acc * (ranks or 1)
                fits = tb == at_once if ranks and mb else tb % at_once == 0
                why = f"train_batch_size = {tb} does not match this number of gradient accumulation steps"
                became = "computed from [batch] and the number of ranks"
                self.say(KEPT if fits else CHANGED, steps, became, "" if fits else why)
        elif mb is not None and not self.auto(total) and not self.auto(steps):
            product = f"{mb} windows x {acc or 1} gradient accumulation step(s) x ranks"
            if ranks:
                self.keep(total, "batch", "global_batch_size", mb * (acc or 1) * ranks, KEPT, f"{product} ({ranks})")
                if acc is not None:
                    self.say(KEPT, steps, "computed from [batch] and the number of ranks")
            else:
                default = sections()["batch"].model_fields["global_batch_size"].default
                why = (
                    f"the global batch size is {product}: give --world-size, or the default "
                    f"batch.global_batch_size = {default} is used"
                )
                self.say(DROPPED, total if acc is None or total in self.leaves else steps, "", why)
        elif acc is not None:
            why = "no effect without a number for train_batch_size or train_micro_batch_size_per_gpu"
            self.say(DROPPED, steps, "", why)

    def optimizer(self) -> None:
        """Turn any optimizer into AdamW, with those of its parameters that have a setting."""
        kind = self.values.get(TYPE)
        params = {path[2]: value for path, value in self.values.items() if path[:2] == LR[:2] and len(path) == 3}
        if not isinstance(kind, str):
            for name in params:
                self.say(DROPPED, (*LR[:2], name), "", "without optimizer.type, DeepSpeed does not read it")
            return
        if (name := kind.lower()) in ("lamb", "lion"):
            self.own_optimizer(name, params)
            return
        adam = name in ("adam", "adamw")
        gone = next((how for path, how in REMOVED.items() if path.lower() == f"optimizer.type.{kind.lower()}"), None)
        why = "DeepSpeed's Adam is AdamW unless adam_w_mode is false" if adam else f"layoutner has no {kind}"
        why += f"; removed in DeepSpeed {gone[0]}" if gone else ""
        self.keep(TYPE, "optimizer", "name", "adamw", *((KEPT,) if kind.lower() == "adamw" else (CHANGED, why)))
        for name, (section, key) in OPTIMIZER.items():
            if params.get(name) is not None:
                note = () if adam else (CHANGED, f"it was chosen for {kind}; choose a value for AdamW")
                self.keep((*LR[:2], name), section, key, params[name], *note)
        if not adam:
            return
        decoupled = kind.lower() == "adamw" or params.get("adam_w_mode", True)
        self.default(LR, 1e-3)
        if params.get("torch_adam") and decoupled:
            self.default((*LR[:2], "weight_decay"), 0.01)  # the default of torch.optim.AdamW
        for name, value in params.items():
            path = (*LR[:2], name)
            if name in ("torch_adam", "fused") and value is not None:
                different = "" if value else "different kernel, same formula"
                self.say(KEPT if value else CHANGED, path, "torch.optim's fused AdamW", different)
            elif name == "adam_w_mode" and not decoupled:
                self.say(DROPPED, path, "", "layoutner decouples weight decay: the same only if weight_decay is 0")
            elif name == "adam_w_mode" or (name, value) in (("amsgrad", False), ("bias_correction", True)):
                self.say(KEPT, path, "AdamW does this")

    def own_optimizer(self, name: str, params: Mapping[str, Any]) -> None:
        """LAMB and Lion of DeepSpeed, which layoutner has of its own."""
        self.keep(TYPE, "optimizer", "name", name)
        for key, (section, its) in (OPTIMIZER | TRUST_RATIO).items():
            if params.get(key) is not None:
                self.keep((*LR[:2], key), section, its, params[key])
        defaults: dict[str, Any] = {"lr": 1e-3}
        if name == "lamb":
            defaults |= {"eps": 1e-8, "min_coeff": 0.01, "max_coeff": 10.0}
        else:
            defaults["betas"] = [0.9, 0.999]
        for key, value in defaults.items():
            self.default((*LR[:2], key), value)
        if name == "lamb":
            self.settings["optimizer"]["variant"] = "nvlamb"
            self.say(CHANGED, TYPE, "optimizer.name = lamb, optimizer.variant = nvlamb", DEEPSPEED_LAMB)
        for key, value in params.items():
            if (key, value) in (("amsgrad", False), ("eps_inside_sqrt", False)):
                self.say(KEPT, (*LR[:2], key), f"what {name} does")
            elif (key, value) == ("bias_correction", True):
                self.say(CHANGED, (*LR[:2], key), f"what {name} does", "before the trust ratio, not after it")

    def schedule(self) -> None:
        """Turn the schedule into one that [schedule] has."""
        kind, at = self.values.get(("scheduler", "type")), ("scheduler", "params")
        top, warmup, total = ((*at, name) for name in ("warmup_max_lr", "warmup_num_steps", "total_num_steps"))
        if kind not in _CURVES:
            path = ("scheduler", "type") if kind else ("scheduler",)
            other = (
                f"layoutner has no {kind}"
                if kind
                else "not in the file: DeepSpeed keeps the learning rate constant, as schedule.shape = constant does, "
                "and Hugging Face's Trainer decays it"
            )
            if kind or not any(path[0] == "scheduler" for path in self.leaves):
                self.say(
                    CHANGED,
                    path,
                    "[schedule]",
                    f"{other}; unless schedule.shape says otherwise, layoutner decays it linearly to 0",
                )
            return
        shape, why = _CURVES[kind]
        if shape != "linear":
            self.settings.setdefault("schedule", {})["shape"] = shape
        self.say(CHANGED if why else KEPT, ("scheduler", "type"), f"schedule.shape = {shape}", why)
        peak = self.values.get(top, 0.001 if kind == "WarmupDecayLR" and top not in self.leaves else None)
        if isinstance(peak, list):
            self.say(DROPPED, top, "", "one value per parameter group: layoutner has only one, optimizer.lr")
        elif peak is not None:
            why = "" if top in self.leaves else "not in the file: WarmupDecayLR's default overrides the optimizer's"
            before = self.lines.get(LR)
            if self.keep(top, "optimizer", "lr", peak, KEPT, why):
                if LR in self.values and self.values[LR] != peak:
                    self.say(DROPPED, LR, "", f"the schedule's warmup_max_lr = {peak} overrides it and is kept instead")
                elif before is not None and LR not in self.leaves:
                    del self.lines[LR]
        steps, length = self.values.get(warmup), self.values.get(total)
        if steps is not None:
            why = "DeepSpeed turns 1 into 2" if steps == 1 else ""
            if length is not None and max(2, steps) > length:
                why = f"more than the {length} steps of the run, which layoutner refuses: choose fewer"
            self.keep(warmup, "schedule", "warmup_steps", max(2, steps), CHANGED if steps == 1 else KEPT, why)
        self.default(warmup, 1000)
        if length is not None:
            self.keep(total, "schedule", "max_steps", length)
        elif total not in self.leaves:
            self.say(CHANGED, total, "", "layoutner's schedule needs a length: give schedule.epochs or max_steps")
        rise = (*at, "warmup_type")
        if self.values.get(rise) == "linear":
            self.say(KEPT, rise, "[schedule]")
        elif rise in self.values or rise not in self.leaves:
            unset = "" if rise in self.leaves else "not in the file, so DeepSpeed's default: "
            self.say(CHANGED, rise, "[schedule]", f"{unset}the logarithmic warm-up becomes linear")
        for name in ("warmup_min_lr", "warmup_min_ratio"):
            if self.values.get((*at, name)) == 0:
                self.say(KEPT, (*at, name), "[schedule]")

    def precision(self, preset: dict[str, Any]) -> None:
        """Find the data type of the network, and the settings of the loss scale."""
        brain = ("bf16" if any(path[0] == "bf16" for path in self.leaves) else "bfloat16", "enabled")
        half, cast, cast_type = ("fp16", "enabled"), ("torch_autocast", "enabled"), ("torch_autocast", "dtype")
        unknown = {path for path in (brain, half) if path in self.leaves and path not in self.values}
        default = str(sections()["precision"].model_fields["dtype"].default)
        dtype: str | None = None
        if self.values.get(brain) or self.values.get(half):
            dtype = "bf16" if self.values.get(brain) else "fp16"
        elif self.values.get(cast):
            dtype = "fp16" if str(self.values.get(cast_type, "bf16")).endswith(("float16", "fp16", "half")) else "bf16"
            dtype = "bf16" if "bfloat16" in str(self.values.get(cast_type)) else dtype
            for path in {cast, cast_type} & set(self.values):
                self.keep(path, "precision", "dtype", dtype, CHANGED, REASONS["torch_autocast"])
        elif brain not in unknown and (half not in unknown or self.values.get(brain) is False):
            dtype = "fp32"
        if dtype is not None:
            self.settings.setdefault("precision", {})["dtype"] = dtype
        for path in (brain, half):
            if path == half and self.values.get(brain) and self.values.get(half):
                self.say(DROPPED, path, "", "DeepSpeed refuses fp16 together with bf16; bf16 is used")
            elif path in self.values:
                self.say(KEPT, path, f"precision.dtype = {dtype or default}")
        if dtype == "fp32" and not {brain, half} & set(self.leaves):
            self.say(KEPT, ("bf16", "enabled"), "precision.dtype = fp32", "not in the file: DeepSpeed trains in fp32")
        for name in LOSS_SCALE:
            if self.values.get(("fp16", name)) is not None:
                self.keep(("fp16", name), "precision", name, self.values["fp16", name])
        stage = self.settings.get("deepspeed", {}).get("zero_stage") or preset.get(ZERO, {}).get("stage")
        summed = ("data_types", "grad_accum_dtype")
        if stage and (dtype or default) != "fp32" and summed not in self.leaves:
            why = "not in the file: layoutner then sums gradients in fp32, DeepSpeed in the data type of the weights"
            self.say(CHANGED, summed, "data_types.grad_accum_dtype = fp32", why)

    def policy(self) -> dict[str, Any] | None:
        """Collect engine policy for the preset. A ZeRO stage without other policy becomes a setting, not a preset."""
        preset: dict[str, Any] = {}
        for path, value in self.values.items():
            if path[0] not in POLICY or value is None:
                continue
            target, why = path, ""
            if path == (ZERO,) and isinstance(value, bool):
                target, value, why = (ZERO, "stage"), int(value), "the old way to write stage 1 (true) or 0 (false)"
            elif path[0] == ZERO and path[1:] and path[1] in RENAMED:
                target, why = (ZERO, *RENAMED[path[1]]), "replaces a deprecated key"
                if not value or target in self.leaves:
                    known = "off, which is the default" if not value else "the file also has its replacement"
                    self.say(DROPPED, path, "", f"deprecated, and {known}")
                    continue
                value = "cpu" if target[-1] == "device" else value
            refusals: dict[Path, str] = {
                (ZERO, "legacy_stage1"): "removed: DeepSpeed fails if it is true" * (value is True),
                (ZERO, "cpu_offload_use_pin_memory"): "deprecated, and has no effect",
            }
            if refused := refusals.get(path) or (path[0] == ZERO and why_refused(path[1:], value)):
                self.say(DROPPED, path, "", refused)
                continue
            tree = preset
            for name in target[:-1]:
                tree = tree.setdefault(name, {})
            tree[target[-1]] = {**value, **tree.get(target[-1], {})} if isinstance(value, dict) else value
            self.say(CHANGED if why else KEPT, path, f"preset: {'.'.join(target)}" if why else "preset", why)
        if set(preset) == {ZERO} and set(preset[ZERO]) <= {"stage"}:
            stage = preset[ZERO].get("stage", 0)
            used = (path for path, line in self.lines.items() if path[0] == ZERO and line.what != DROPPED)
            path = next(used)
            note = f"layoutner's preset zero{stage} is used; its bucket sizes may differ from DeepSpeed's defaults"
            self.keep(path, "deepspeed", "zero_stage", stage, *((CHANGED, note) if stage else ()))
            return None
        return preset or None
