"""One pass over a DeepSpeed JSON: every key and value against the schema. What keys say of each other is check.py."""

import difflib
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from layoutner.config.deepspeed_schema import OPTIMIZERS, REMOVED, SCHEDULERS, TOP, Block, Key
from layoutner.config.finding import ERROR, NOTE, WARNING, Finding
from layoutner.config.hjson_source import Member, Node


@dataclass(frozen=True)
class Place:
    """A key of the file: its value, and where the key stands."""

    value: Any
    line: int
    column: int


# Values that a framework fills in where a config says "auto", held against the real ones by tests/test_frameworks.py.
# Any other "auto" is refused by both when the engine is about to start, even one that DeepSpeed itself understands.
_ACCELERATE = {  # accelerate's DeepSpeedPlugin and Accelerator.prepare, which the Trainer calls too
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "steps_per_print",
    "zero_allow_untested_optimizer",
    "optimizer.params.lr",
    "optimizer.params.weight_decay",
    "scheduler.params.warmup_min_lr",
    "scheduler.params.warmup_max_lr",
    "scheduler.params.warmup_num_steps",
    "scheduler.params.total_num_steps",
    "fp16.enabled",
    "bf16.enabled",
    "zero_optimization.stage",
    "zero_optimization.offload_optimizer.device",
    "zero_optimization.offload_optimizer.nvme_path",
    "zero_optimization.offload_param.device",
    "zero_optimization.offload_param.nvme_path",
    "zero_optimization.reduce_bucket_size",
    "zero_optimization.stage3_gather_16bit_weights_on_model_save",
    "zero_optimization.stage3_param_persistence_threshold",
    "zero_optimization.stage3_prefetch_bucket_size",
}
FILLED = {
    "hf-trainer": _ACCELERATE | {"optimizer.params.betas", "optimizer.params.eps"},
    "accelerate": _ACCELERATE,
}

# What people write, and what they mean, where no name is near enough to guess it.
HABITS = {
    "lr_scheduler": "scheduler",
    "max_grad_norm": "gradient_clipping",
    "clip_grad_norm": "gradient_clipping",
    "gradient_accumulation": "gradient_accumulation_steps",
    "micro_batch_size_per_gpu": "train_micro_batch_size_per_gpu",
    "train_micro_batch_size": "train_micro_batch_size_per_gpu",
    "micro_batch_size": "train_micro_batch_size_per_gpu",
    "per_device_train_batch_size": "train_micro_batch_size_per_gpu",
    "batch_size": "train_batch_size",
    "learning_rate": "optimizer.params.lr",
    "lr": "optimizer.params.lr",
    "weight_decay": "optimizer.params.weight_decay",
    "warmup_steps": "scheduler.params.warmup_num_steps",
    "zero": "zero_optimization",
    "bp16": "bf16",
}


class Walk:
    """One pass over a file: findings about single keys, and the place of every key for the rules after it."""

    def __init__(self, framework: str | None) -> None:
        """`framework`: None, "hf-trainer" or "accelerate"; who fills in "auto"."""
        self.framework = framework
        self.findings: list[Finding] = []
        self.places: dict[str, Place] = {}

    def add(self, severity: str, path: str, message: str, advice: str, at: Member | Place | None = None) -> None:
        """Record a finding at a member, or at the place of a path already walked."""
        where = at or self.places.get(path) or Place(None, 1, 1)
        value = where.node.value() if isinstance(where, Member) else where.value
        self.findings.append(Finding(severity, path, where.line, where.column, message, value, advice))

    def object(self, node: Node, block: Block, path: str = "") -> None:
        """Check the members of an object against a block."""
        first: dict[str, Member] = {}
        for member in node.members or []:
            dotted = f"{path}.{member.key}".lstrip(".")
            if member.key in first:
                self.add(
                    ERROR,
                    dotted,
                    f"a duplicate key: it stands in line {first[member.key].line} already",
                    "DeepSpeed refuses the file; keep one of the two",
                    member,
                )
                continue
            first[member.key] = member
            self.places[dotted] = Place(member.node.value(), member.line, member.column)
            key = block.keys.get(member.key)
            if dotted in REMOVED:
                release, advice = REMOVED[dotted]
                self.add(ERROR, dotted, f"removed in DeepSpeed {release}", advice, member)
            elif key is not None:
                self.value(member.node, key, dotted, member)
            elif block.others is not None:
                self.value(member.node, block.others, dotted, member)
            elif not block.open:
                self.unknown(member, block, path, dotted)
        for name, key in block.keys.items():
            if key.required and name not in first and path:
                dotted = f"{path}.{name}"
                self.add(ERROR, path, f"{name} is missing", f"{dotted}: {key.meaning}")

    def unknown(self, member: Member, block: Block, path: str, dotted: str) -> None:
        """A key that DeepSpeed does not have here."""
        if member.key.startswith(("_", "//", "#")) or "comment" in member.key.lower():
            advice = "write a comment as // or #, which DeepSpeed's HJSON reader skips"
            severity = ERROR if block.strict else NOTE
            self.add(severity, dotted, f"not a key of DeepSpeed{_reaction(block)}", advice, member)
            return
        near = difflib.get_close_matches(member.key, block.keys, n=1, cutoff=0.75)
        homes = [home for home in _homes(member.key) if home != path]
        habit = HABITS.get(member.key)
        if path and habit is not None:
            leaf = habit.rpartition(".")[2]
            habit = leaf if leaf in block.keys else None
        if near:
            advice = f"did you mean '{near[0]}'?"
        elif habit is not None:
            advice = f"DeepSpeed calls it {habit}"
        elif 0 < len(homes) <= 3:  # a key such as "enabled" has a home everywhere
            advice = f"it belongs under {' or '.join(home or 'the top level' for home in homes)}"
        else:
            far = difflib.get_close_matches(member.key, block.keys, n=1, cutoff=0.6)
            advice = f"did you mean '{far[0]}'? If not, take it out" if far else "take it out"
        self.add(ERROR, dotted, f"unknown key{_reaction(block)}", advice, member)

    def value(self, node: Node, key: Key, path: str, member: Member) -> None:
        """Check one value against its key."""
        value = node.value()
        if value == "auto" and (self.framework or "auto" not in key.choices):
            self.auto(key, path, member)
            return
        kind = _kind(node)
        if kind not in key.types and not (kind == "integer" and "number" in key.types):
            self.wrong_type(value, kind, key, path, member)
            return
        if key.choices and not _is_choice(value, key):
            known = ", ".join(map(str, key.choices))
            self.add(ERROR, path, f"{value!r} is not one of the values it takes", f"one of: {known}", member)
        bound = _out_of_bounds(value, key)
        if bound:
            self.add(ERROR, path, f"{value!r} is out of range", f"it must be {bound}", member)
        if key.deprecated:
            self.add(WARNING, path, "deprecated", key.deprecated, member)
        if node.members is not None and key.block is not None:
            self.object(node, key.block, path)
        for index, item in enumerate(node.items or []):
            if key.items is not None:
                self.value(item, key.items, f"{path}[{index}]", Member(member.key, item.line, item.column, item))

    def auto(self, key: Key, path: str, member: Member) -> None:
        """A value left to somebody else."""
        if self.framework:
            if path not in FILLED[self.framework]:
                message = f'"auto", but {self.framework} does not fill this one in'
                own = key.default == "auto"
                self.add(
                    ERROR, path, message, "take it out: it is DeepSpeed's default" if own else "write the value", member
                )
            return
        if key.auto:
            return
        fillers = [name for name, paths in FILLED.items() if path in paths]
        advice = f"write the value; or, where {' or '.join(fillers)} fills it in, check with --for" if fillers else ""
        self.add(ERROR, path, '"auto" means nothing to DeepSpeed itself', advice or "write the value", member)

    def wrong_type(self, value: Any, kind: str, key: Key, path: str, member: Member) -> None:
        """A value of another type; a warning where DeepSpeed converts it."""
        wanted = " or ".join(key.types)
        if isinstance(value, str) and value.rstrip(",").lower() in ("true", "false", "none"):
            right = {"true": "true", "false": "false", "none": "null"}[value.rstrip(",").lower()]
            advice = f"write {right}, in lower case: as it stands it is read as the text {value!r}"
        elif isinstance(value, str) and _reads_as_number(value):
            advice = f"take the quotes off: {value}"
        else:
            advice = f"give {wanted}, for instance {key.default!r}" if key.default is not None else f"give {wanted}"
        self.add(ERROR, path, f"{kind} where {wanted} belongs", advice, member)


def _reaction(block: Block) -> str:
    return "; DeepSpeed refuses the file" if block.strict else "; DeepSpeed ignores it without a word"


def _kind(node: Node) -> str:
    if node.members is not None:
        return "object"
    if node.items is not None:
        return "array"
    value = node.scalar
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, float) and value.is_integer():
        return "integer"  # 5e10 counts as one
    return {int: "integer", float: "number", str: "string"}.get(type(value), "null")


def _is_choice(value: Any, key: Key) -> bool:
    if key.case_insensitive and isinstance(value, str):
        return value.lower() in {str(choice).lower() for choice in key.choices}
    return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in key.choices)


def _out_of_bounds(value: Any, key: Key) -> str:
    """What the value should be, where it is outside the key's bounds; else ""."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    checks: tuple[tuple[float | None, str, Callable[[float, float], bool]], ...] = (
        (key.minimum, "at least", operator.ge),
        (key.exclusive_minimum, "above", operator.gt),
        (key.maximum, "at most", operator.le),
        (key.exclusive_maximum, "below", operator.lt),
    )
    broken = [f"{words} {bound:g}" for bound, words, holds in checks if bound is not None and not holds(value, bound)]
    return " and ".join(broken)


def _reads_as_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _homes(name: str) -> list[str]:
    """Dotted paths of the objects in which DeepSpeed does have this key."""
    found = []

    def visit(block: Block, path: str) -> None:
        if name in block.keys:
            found.append(path)
        for child, key in block.keys.items():
            if key.block is not None:
                visit(key.block, f"{path}.{child}".lstrip("."))

    visit(TOP, "")
    for table, path in ((OPTIMIZERS, "optimizer.params"), (SCHEDULERS, "scheduler.params")):
        if any(name in block.keys for block in table.values()):
            found.append(path)
    return found
