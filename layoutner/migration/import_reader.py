"""Read the leaves of a DeepSpeed JSON, turn those that DeepSpeed can use into settings, and report on each."""

from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from layoutner.deepspeed_config.finding import ERROR
from layoutner.deepspeed_config.hjson_source import Member, Node
from layoutner.deepspeed_config.key import Block, Key
from layoutner.deepspeed_config.notes.removed import REMOVED
from layoutner.deepspeed_config.schema import installed_schema
from layoutner.deepspeed_config.walk import Walk
from layoutner.settings.optimizer import BY_NAME
from layoutner.settings.tree import sections

KEPT, CHANGED, DROPPED = "kept", "changed", "dropped"
Path = tuple[str, ...]
ZERO, TYPE, LR = "zero_optimization", ("optimizer", "type"), ("optimizer", "params", "lr")
LOSS_SCALE = ("loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis", "min_loss_scale")
OPTIMIZER = {name: ("optimizer", name) for name in ("lr", "betas", "eps", "weight_decay")}
TRUST_RATIO = {f"{limit}_coeff": ("optimizer", f"{limit}_trust_ratio") for limit in ("min", "max")}  # of LAMB
WANDB = {"enabled": ("wandb", "mode"), "project": ("wandb", "project"), "team": ("wandb", "entity")}

# Path in the JSON -> section and key of Settings.
SETTING_OF: dict[Path, tuple[str, str]] = {
    ("train_batch_size",): ("batch", "global_batch_size"),
    ("train_micro_batch_size_per_gpu",): ("batch", "micro_batch_size"),
    ("gradient_accumulation_steps",): ("batch", "global_batch_size"),
    ("gradient_clipping",): ("optimizer", "max_grad_norm"),
    ("steps_per_print",): ("run", "log_every"),
    **{("optimizer", "params", name): home for name, home in (OPTIMIZER | TRUST_RATIO).items()},
    ("scheduler", "params", "warmup_max_lr"): ("optimizer", "lr"),
    ("scheduler", "params", "warmup_num_steps"): ("schedule", "warmup_steps"),
    ("scheduler", "params", "total_num_steps"): ("schedule", "max_steps"),
    **{("fp16", name): ("precision", name) for name in LOSS_SCALE},
    **{(block, "enabled"): ("precision", "dtype") for block in ("fp16", "bf16", "bfloat16")},
    **{("wandb", name): home for name, home in WANDB.items()},
}
_MONITOR = "layoutner does not have this monitor: it always writes metrics.jsonl, and [wandb] can be turned on"
# Top-level key -> why its leaves become no setting.
REASONS = {
    "tensorboard": _MONITOR,
    "csv_monitor": _MONITOR,
    "comet": _MONITOR,
    "bfloat16": "the file also has bf16, and DeepSpeed then ignores bfloat16",
    "torch_autocast": "layoutner does not use autocast: the network itself runs in precision.dtype",
    "gradient_allreduce_op": "layoutner decides how gradients are averaged, because its loss depends on it",
    "managed_gradient_accumulation": "layoutner's training loop counts micro-batches itself",
    "zero_allow_untested_optimizer": "layoutner sets it if its optimizer needs it",
    "optimizer": "layoutner has no setting for it",
    "scheduler": "layoutner's schedule, a linear warm-up from 0 and then schedule.shape, does not have this parameter",
    "fp16": "layoutner has no setting for it",
    "bf16": "layoutner has no setting for it",
    "wandb": "[wandb] has no setting for it",
}


@dataclass(frozen=True)
class Line:
    """One line of the report, about a leaf of the JSON or about a default of DeepSpeed that the JSON leaves out."""

    what: str  # "kept" | "changed" | "dropped"
    path: str  # dotted path in the JSON
    value: object  # None for a default of DeepSpeed
    became: str  # e.g. "optimizer.lr = 5e-05", "preset", ""
    why: str  # the reason; always given for "changed" and "dropped"


@dataclass
class Reading:
    """The leaves of a JSON, the settings made from them so far, and the report on each leaf."""

    world_size: int | None
    leaves: dict[Path, Any] = field(default_factory=dict)  # path -> value of every leaf, in the order of the file
    values: dict[Path, Any] = field(default_factory=dict)  # of these, what DeepSpeed can use and is not "auto"
    keys: dict[Path, Key | None] = field(default_factory=dict)  # what the schema says about a leaf
    lines: dict[Path, Line] = field(default_factory=dict)
    twice: set[Path] = field(default_factory=set)  # keys that the file has more than once
    settings: dict[str, dict[str, object]] = field(default_factory=dict)

    def visit(self, node: Node, block: Block, path: Path, data: Any) -> None:
        """Collect the leaves of an object, and report those that DeepSpeed cannot use as dropped.

        Args:
            node: the object in the file.
            block: its keys in the schema.
            path: its path in the JSON.
            data: its parsed value.
        """
        for member in {member.key: member for member in node.members or []}.values():
            here = (*path, member.key)
            if sum(other.key == member.key for other in node.members or []) > 1:
                self.twice.add(here)
            key = block.keys.get(member.key, block.others)
            inner = key.block if key else None
            if here == ("optimizer", "params"):
                kind = str(data["optimizer"].get("type")).lower()
                inner = installed_schema().optimizers.get(kind) or Block({}, False, True)
            elif here == ("scheduler", "params"):
                kind = str(data["scheduler"].get("type"))
                inner = installed_schema().schedulers.get(kind) or Block({}, False, True)
            why = "" if member.node.value() == "auto" and key else _problem(member, key, block, path)
            if member.node.members and inner is not None and not why:
                self.visit(member.node, inner, here, data)
                continue
            for leaf, value in _leaves(member.node.value(), here):
                self.leaves[leaf], self.keys[leaf] = value, key if leaf == here else None
                if why:
                    self.say(DROPPED, leaf, "", why)
                elif value != "auto":
                    self.values[leaf] = value

    def say(self, what: str, path: Path, became: str, why: str = "") -> None:
        """Add a line to the report."""
        if any(path[: len(twice)] == twice for twice in self.twice):
            why += f"{'; ' * bool(why)}the file has this key twice, which DeepSpeed refuses; the last value is used"
        self.lines[path] = Line(what, ".".join(path), self.leaves.get(path), became, why)

    def keep(self, path: Path, section: str, key: str, value: Any, what: str = KEPT, why: str = "") -> bool:
        """Put a value into the settings if it is valid there, and report it as `what`; else report it as dropped.

        Returns:
            whether it was valid.
        """
        try:
            model = sections()[section].model_validate({key: value})
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            self.say(DROPPED, path, "", f"not valid for {section}.{key}: {problem}")
            return False
        taken = model.model_dump(mode="json")[key]
        self.settings.setdefault(section, {})[key] = taken
        self.say(what, path, f"{section}.{key} = {taken}", why)
        return True

    def default(self, path: Path, value: Any) -> None:
        """If the file lacks a key, put DeepSpeed's default into the settings, because layoutner's default differs."""
        if path not in self.leaves:
            self.keep(
                path, *SETTING_OF[path], value, KEPT, "not in the file: DeepSpeed's default (layoutner has another)"
            )

    def reason(self, path: Path) -> str:
        """Why a leaf that became neither a setting nor part of the preset is dropped."""
        value, key = self.leaves[path], self.keys[path]
        if value == "auto" and path in SETTING_OF:
            section, name = SETTING_OF[path]
            model = sections()[section]
            if section == "optimizer":
                model = BY_NAME[str(self.settings.get(section, {}).get("name", "adamw"))]
            default = model.model_fields[name].default if name in model.model_fields else None
            current = self.settings.get(section, {}).get(name)
            instead = f"{section}.{name} = {current}, from another key of the file" if current is not None else (
                f"layoutner uses its default {section}.{name} = {default}" if default is not None
                else f"{section}.{name} is not set"
            )  # fmt: skip
            return f'Hugging Face\'s Trainer fills in "auto"; {instead}'
        if value == "auto":
            default = None if key is None else key.default
            instead = "layoutner uses its own value" if default is None else f"DeepSpeed uses its default {default!r}"
            return f'"auto" is only for Hugging Face\'s Trainer; {instead}'
        if value is None:
            return "null, which is the same as leaving the key out"
        if path[0] not in REASONS and key is not None and value == key.default:
            return "DeepSpeed's default, which is used anyway"
        return REASONS.get(path[0], "layoutner has no setting for it, and a preset may not contain it")

    def auto(self, path: Path) -> bool:
        """Whether the file leaves a value to Hugging Face's Trainer."""
        return bool(self.leaves.get(path) == "auto")


def _leaves(value: Any, path: Path) -> list[tuple[Path, Any]]:
    """(path, value) of every leaf in a value; lists and empty objects are leaves."""
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, (*path, key))]
    return [(path, value)]


def _problem(member: Member, key: Key | None, block: Block, path: Path) -> str:
    """Why DeepSpeed cannot use a key, or a value that is not an object with known keys; "" if it can."""
    dotted, walk = ".".join((*path, member.key)), Walk(None)
    if dotted in REMOVED:
        return f"removed in DeepSpeed {REMOVED[dotted][0]}: {REMOVED[dotted][1]}"
    if key is None and not block.open:
        walk.unknown(member, block, ".".join(path), dotted)
    elif key is not None and not (member.node.members and key.block is not None and "object" in key.types):
        walk.value(member.node, key, dotted, member)
        walk.findings = [finding for finding in walk.findings if finding.severity == ERROR]
    return "; ".join(f"{finding.message}: {finding.advice}" for finding in walk.findings)
