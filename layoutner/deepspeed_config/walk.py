"""Check every key and value of a DeepSpeed JSON against the schema, in one pass. check.py checks combinations.

A JSON Schema validator would not do: it does not see duplicate keys, and for a wrong value inside an object that may
also be "auto" it reports only that the whole object is invalid.
"""

import json
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from layoutner.deepspeed_config.finding import ERROR, NOTE, WARNING, Finding
from layoutner.deepspeed_config.hints import instead, key_meant
from layoutner.deepspeed_config.hjson_source import Member, Node
from layoutner.deepspeed_config.key import Block, Key
from layoutner.deepspeed_config.notes.removed import REMOVED, SWITCHES
from layoutner.deepspeed_config.schema import Schema, installed_schema


@dataclass
class Place:
    """A key of the file: its value and its position."""

    value: Any
    line: int
    column: int
    wrong: bool = False  # whether it has an error; the rules then ignore the value


# Keys whose "auto" a framework fills in; tests/engine/test_frameworks.py compares them with the real frameworks. Both
# refuse any other "auto" before the engine starts, even one that DeepSpeed itself understands.
_ACCELERATE = {  # accelerate's DeepSpeedPlugin and Accelerator.prepare, which the Trainer also calls
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


class Walk:
    """One pass over a file. It collects findings about single keys, and the position of every key for the rules."""

    def __init__(self, framework: str | None, schema: Schema | None = None) -> None:
        """
        Args:
            framework: "hf-trainer" or "accelerate", if one of them fills in "auto"; else None.
            schema: the keys of a DeepSpeed release; default: the installed release.
        """
        self.framework = framework
        self.schema = schema or installed_schema()
        self.findings: list[Finding] = []
        self.places: dict[str, Place] = {}

    def add(self, severity: str, path: str, message: str, advice: str, at: Member | Place | None = None) -> None:
        """Record a finding at a member, or at the position of a path that was already visited."""
        where = at or self.places.get(path) or Place(None, 1, 1)
        value = where.node.value() if isinstance(where, Member) else where.value
        self.findings.append(Finding(severity, path, where.line, where.column, message, value, advice))
        if severity == ERROR and path in self.places:
            self.places[path].wrong = True

    def object(self, node: Node, block: Block, path: str = "") -> None:
        """Check the members of an object against a block."""
        first: dict[str, Member] = {}
        for member in node.members or []:
            dotted = f"{path}.{member.key}".lstrip(".")
            if member.key in first:
                self.add(
                    ERROR,
                    dotted,
                    f"duplicate key: line {first[member.key].line} already has it",
                    "DeepSpeed refuses the file; keep one of the two",
                    member,
                )
                continue
            first[member.key] = member
            self.places[dotted] = Place(member.node.value(), member.line, member.column)
            key = block.keys.get(member.key)
            if key is not None and dotted in ("optimizer.params", "scheduler.params"):
                key = replace(key, block=self.parameters(path, node))
            if dotted in REMOVED:
                release, advice = REMOVED[dotted]
                if dotted in SWITCHES and _is_off(member.node.value()):
                    advice = "remove it: it is off"
                severity = ERROR if key is None else WARNING  # an earlier release still has the key
                self.add(severity, dotted, f"removed in DeepSpeed {release}", advice, member)
            elif key is not None:
                self.value(member.node, key, dotted, member)
            elif block.others is not None:
                self.value(member.node, block.others, dotted, member)
            elif not block.open:
                self.unknown(member, block, path, dotted)
        missing = {name: key.meaning for name, key in block.keys.items() if key.required and name not in first}
        if missing and path:
            verb = "is" if len(missing) == 1 else "are"
            wanted = " ".join(f"{path}.{name}: {meaning}" for name, meaning in missing.items())
            self.add(ERROR, path, f"{' and '.join(missing)} {verb} missing", wanted)

    def unknown(self, member: Member, block: Block, path: str, dotted: str) -> None:
        """Report a key that DeepSpeed does not have here."""
        if member.key.startswith(("_", "//", "#")) or "comment" in member.key.lower():
            advice = "write comments with // or #, which DeepSpeed's HJSON reader skips"
            severity = ERROR if block.strict else NOTE
            self.add(severity, dotted, f"not a key of DeepSpeed{_reaction(block)}", advice, member)
            return
        advice = key_meant(self.schema, member.key, member.node.value(), _kind(member.node), block, path)
        if not advice and path in ("optimizer.params", "scheduler.params"):
            advice = f"remove it; this one takes {', '.join(block.keys)}"
        advice = advice or "remove it"
        self.add(ERROR, dotted, f"unknown key{_reaction(block)}", advice, member)

    def parameters(self, path: str, node: Node) -> Block:
        """The keys of `params` for the given `type`; any key if the type is unknown."""
        kind = str(next((member.node.value() for member in node.members or [] if member.key == "type"), None))
        if path == "scheduler":
            return self.schema.schedulers.get(kind, _ANY)
        known = kind.lower() in self.schema.deepspeed_types or kind in self.schema.torch_types.values()
        return self.schema.optimizers[kind.lower()] if known else _ANY

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
            self.add(ERROR, path, f"{value!r} is not an allowed value", f"one of: {known}", member)
        elif bound := _out_of_bounds(value, key):
            self.add(ERROR, path, f"{value!r} is out of range", f"it must be {bound}", member)
        if key.deprecated:
            self.add(WARNING, path, "deprecated", instead(key, value), member)
        if node.members is not None and key.block is not None:
            self.object(node, key.block, path)
        for index, item in enumerate(node.items or []):
            if key.items is not None:
                self.value(item, key.items, f"{path}[{index}]", Member(member.key, item.line, item.column, item))

    def auto(self, key: Key, path: str, member: Member) -> None:
        """Check a value that is "auto"."""
        if self.framework:
            if path not in FILLED[self.framework]:
                message = f'"auto", but {self.framework} does not fill it in here'
                own = key.default == "auto"
                self.add(
                    ERROR, path, message, "remove it: it is DeepSpeed's default" if own else "write the value", member
                )
            return
        if key.auto:
            return
        fillers = [name for name, paths in FILLED.items() if path in paths]
        advice = f"write the value; or, if {' or '.join(fillers)} fills it in, check with --for" if fillers else ""
        self.add(ERROR, path, '"auto" means nothing to DeepSpeed itself', advice or "write the value", member)

    def wrong_type(self, value: Any, kind: str, key: Key, path: str, member: Member) -> None:
        """Report a value of the wrong type."""
        wanted = " or ".join(key.types)
        if isinstance(value, str) and value.rstrip(",").lower() in ("true", "false", "none"):
            right = {"true": "true", "false": "false", "none": "null"}[value.rstrip(",").lower()]
            advice = f"write {right}, in lower case: DeepSpeed reads this as the string {value!r}"
        elif isinstance(value, str) and _reads_as_number(value):
            advice = f"remove the quotes: {value}"
        elif value is False and key.block is not None:
            advice = "remove it: it is off by default"
        elif value is True and key.block is not None and key.block.keys.keys() & _ON.keys():
            name = next(name for name in _ON if name in key.block.keys)
            advice = f"write {json.dumps({name: _ON[name]})}"
        else:
            example = "" if key.default in (None, {}) else f", for instance {json.dumps(key.default)}"
            advice = f"give {wanted}{example}"
        self.add(ERROR, path, f"expected {wanted}, found {kind}", advice, member)


def _reaction(block: Block) -> str:
    return "; DeepSpeed refuses the file" if block.strict else "; DeepSpeed ignores it silently"


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
    """The bounds that the value violates, in words; "" if it violates none."""
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


_ON = {"enabled": True, "device": "cpu"}  # what a bare true means in place of an object
_ANY = Block(keys={}, strict=False, open=True)


def _is_off(value: Any) -> bool:
    return value in (None, False) or (isinstance(value, dict) and value.get("enabled") is False)
