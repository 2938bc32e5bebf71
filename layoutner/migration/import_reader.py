"""A DeepSpeed JSON leaf by leaf: which of them DeepSpeed can use, what becomes of each, and the report of it."""

from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from layoutner.deepspeed_config.finding import ERROR
from layoutner.deepspeed_config.hjson_source import Member, Node
from layoutner.deepspeed_config.key import Block, Key
from layoutner.deepspeed_config.notes.removed import REMOVED
from layoutner.deepspeed_config.schema import installed_schema
from layoutner.deepspeed_config.walk import Walk
from layoutner.settings.tree import sections

KEPT, CHANGED, DROPPED = "kept", "changed", "dropped"
Path = tuple[str, ...]
ZERO, TYPE, LR = "zero_optimization", ("optimizer", "type"), ("optimizer", "params", "lr")
LOSS_SCALE = ("loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis", "min_loss_scale")
OPTIMIZER = {name: ("optimizer", name) for name in ("lr", "betas", "eps", "weight_decay")}
WANDB = {"enabled": ("wandb", "mode"), "project": ("wandb", "project"), "team": ("wandb", "entity")}

# Where a value of the JSON goes: section and key of Settings.
HOMES: dict[Path, tuple[str, str]] = {
    ("train_batch_size",): ("batch", "global_batch_size"),
    ("train_micro_batch_size_per_gpu",): ("batch", "micro_batch_size"),
    ("gradient_accumulation_steps",): ("batch", "global_batch_size"),
    ("gradient_clipping",): ("optimizer", "max_grad_norm"),
    ("steps_per_print",): ("run", "log_every"),
    **{("optimizer", "params", name): home for name, home in OPTIMIZER.items()},
    ("scheduler", "params", "warmup_max_lr"): ("optimizer", "lr"),
    ("scheduler", "params", "warmup_num_steps"): ("schedule", "warmup_steps"),
    ("scheduler", "params", "total_num_steps"): ("schedule", "max_steps"),
    **{("fp16", name): ("precision", name) for name in LOSS_SCALE},
    **{(block, "enabled"): ("precision", "dtype") for block in ("fp16", "bf16", "bfloat16")},
    **{("wandb", name): home for name, home in WANDB.items()},
}
_MONITOR = "layoutner has no such monitor: metrics.jsonl is always written, and [wandb] can be switched on"
REASONS = {
    "tensorboard": _MONITOR,
    "csv_monitor": _MONITOR,
    "comet": _MONITOR,
    "bfloat16": "bf16 stands beside it, and DeepSpeed then reads that alone",
    "torch_autocast": "layoutner has no autocast: the network itself runs in precision.dtype",
    "gradient_allreduce_op": "the exact loss of layoutner decides how gradients are averaged",
    "managed_gradient_accumulation": "the training loop of layoutner counts micro-batches itself",
    "zero_allow_untested_optimizer": "AdamW is tested with ZeRO: nothing to allow",
    "optimizer": "only lr, betas, eps and weight_decay of an optimizer have a setting",
    "scheduler": "layoutner's schedule is a linear warm-up from 0 and a linear decay to 0, without this parameter",
    "fp16": "layoutner has no setting for it",
    "bf16": "layoutner has no setting for it",
    "wandb": "[wandb] has no setting for it",
}


@dataclass(frozen=True)
class Line:
    """One line of the report: a leaf of the JSON, or (value None) a default of DeepSpeed that had to be written out."""

    what: str  # "kept" | "changed" | "dropped"
    path: str  # dotted path in the JSON
    value: object
    became: str  # e.g. "optimizer.lr = 5e-05", "preset", ""
    why: str  # for changed and dropped: the reason, in plain words


@dataclass
class Reading:
    """The leaves of a JSON, the settings made of them so far, and what has been said of each."""

    world_size: int | None
    leaves: dict[Path, Any] = field(default_factory=dict)  # every leaf of the JSON, in order
    values: dict[Path, Any] = field(default_factory=dict)  # of them, those that DeepSpeed can use as they stand
    keys: dict[Path, Key | None] = field(default_factory=dict)
    lines: dict[Path, Line] = field(default_factory=dict)
    twice: set[Path] = field(default_factory=set)
    settings: dict[str, dict[str, object]] = field(default_factory=dict)

    def visit(self, node: Node, block: Block, path: Path, data: Any) -> None:
        """Walk an object against its block; what DeepSpeed itself could not use is dropped on the way."""
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
            why = "" if member.node.value() == "auto" and key else _trouble(member, key, block, path)
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
        if any(path[: len(twice)] == twice for twice in self.twice):
            why += f"{'; ' * bool(why)}the key stands twice in the file, which DeepSpeed refuses: the last one counts"
        self.lines[path] = Line(what, ".".join(path), self.leaves.get(path), became, why)

    def keep(self, path: Path, section: str, key: str, value: Any, what: str = KEPT, why: str = "") -> bool:
        """Put a value into the settings if they can hold it, and report either way."""
        try:
            model = sections()[section].model_validate({key: value})
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            self.say(DROPPED, path, "", f"{section}.{key} cannot hold it: {problem}")
            return False
        taken = model.model_dump(mode="json")[key]
        self.settings.setdefault(section, {})[key] = taken
        self.say(what, path, f"{section}.{key} = {taken}", why)
        return True

    def default(self, path: Path, value: Any) -> None:
        """Write out a default of DeepSpeed that layoutner's differs from."""
        if path not in self.leaves:
            self.keep(path, *HOMES[path], value, KEPT, "not in the file: DeepSpeed's default, which layoutner's is not")

    def reason(self, path: Path) -> str:
        """Why a leaf that nothing took is dropped."""
        value, key = self.leaves[path], self.keys[path]
        if value == "auto" and path in HOMES:
            section, name = HOMES[path]
            default = sections()[section].model_fields[name].default
            stands = self.settings.get(section, {}).get(name)
            said = f"{section}.{name} = {stands}, as the file says elsewhere" if stands is not None else (
                f"layoutner's default {section}.{name} = {default} stands" if default is not None
                else f"layoutner has no {section}.{name} unless you give it"
            )  # fmt: skip
            return f"Hugging Face's Trainer fills it in; {said}"
        if value == "auto":
            default = None if key is None else key.default
            stands = "layoutner's own value stands" if default is None else f"DeepSpeed's default {default!r} stands"
            return f"Hugging Face's Trainer, if anything, fills it in; {stands}"
        if value is None:
            return "null: the same as leaving it out"
        if path[0] not in REASONS and key is not None and value == key.default:
            return "DeepSpeed's default, which stands"
        return REASONS.get(path[0], "layoutner has no setting for it, and it is not engine policy that a preset holds")

    def auto(self, path: Path) -> bool:
        return bool(self.leaves.get(path) == "auto")


def _leaves(value: Any, path: Path) -> list[tuple[Path, Any]]:
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, (*path, key))]
    return [(path, value)]


def _trouble(member: Member, key: Key | None, block: Block, path: Path) -> str:
    """Why DeepSpeed could not use a key, or a value that is no object of keys; "" where it can."""
    dotted, walk = ".".join((*path, member.key)), Walk(None)
    if dotted in REMOVED:
        return f"removed in DeepSpeed {REMOVED[dotted][0]}: {REMOVED[dotted][1]}"
    if key is None and not block.open:
        walk.unknown(member, block, ".".join(path), dotted)
    elif key is not None and not (member.node.members and key.block is not None and "object" in key.types):
        walk.value(member.node, key, dotted, member)
        walk.findings = [finding for finding in walk.findings if finding.severity == ERROR]
    return "; ".join(f"{finding.message}: {finding.advice}" for finding in walk.findings)
