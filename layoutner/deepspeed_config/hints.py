"""What is meant by a name that DeepSpeed does not know: from tables of other names, or by an obvious typing error."""

import re
from collections.abc import Iterable
from typing import Any

from layoutner.deepspeed_config.key import Block, Key
from layoutner.deepspeed_config.notes.other_names import (
    CONSTANT_SCHEDULES,
    KEY_NAMES,
    OPTIMIZER_NAMES,
    REMOVED_OPTIMIZERS,
    SCHEDULER_NAMES,
    UNRELATED_OPTIMIZERS,
)
from layoutner.deepspeed_config.schema import Schema

_IN_THE_SCRIPT = "make another one in the script and remove this block"


def removed_optimizer(name: str) -> str | None:
    """DeepSpeed's former name of a removed optimizer, for any spelling of it; None for other names."""
    return REMOVED_OPTIMIZERS.get(_compact(name))


def optimizer_meant(schema: Schema, name: str) -> tuple[str, str]:
    """(Type that DeepSpeed can build, advice) for a type that it does not know; the type is "" if no type fits."""
    compact = _compact(name).removeprefix("torchoptim")
    types = schema.deepspeed_types | schema.torch_types
    if compact in types:
        return types[compact], f"write {types[compact]!r}"
    if compact in OPTIMIZER_NAMES:
        meant, note = OPTIMIZER_NAMES[compact]
        return meant, f"write {meant!r}" + (f": {note}" if note else "")
    usable = [own for own in types if own != "lbfgs"]  # its step needs a closure
    near = None if compact in UNRELATED_OPTIMIZERS else nearest(compact, usable)
    if near:
        return types[near], f"did you mean {types[near]!r}?"
    own = ", ".join(schema.deepspeed_types.values())
    return "", f"DeepSpeed builds {own} and those of torch.optim; {_IN_THE_SCRIPT}"


def scheduler_meant(schema: Schema, name: str, wrapped: bool) -> tuple[str, str]:
    """(Type that DeepSpeed can build, advice) for a type that it does not know; the type is "" if no type fits.

    Args:
        schema: the keys and types of a DeepSpeed release.
        name: the type in the file.
        wrapped: whether ZeRO, fp16 or bf16 wraps the optimizer; PyTorch's schedules do not accept a wrapped one.
    """
    compact = _compact(name).removeprefix("torchoptim").removeprefix("lrscheduler")
    usable = schema.deepspeed_schedulers if wrapped else schema.schedulers
    known = {own.lower(): own for own in usable if own != "ReduceLROnPlateau"}  # the engine gives it no metric
    if compact in known:
        return known[compact], f"write {known[compact]!r}"
    if compact in SCHEDULER_NAMES:
        meant, note = SCHEDULER_NAMES[compact]
        return meant, f"write {meant!r}" + (f", {note}" if note else "")
    if compact in CONSTANT_SCHEDULES:
        return "", "remove the scheduler: without one the learning rate is constant"
    near = nearest(compact, known)
    if near:
        return known[near], f"did you mean {known[near]!r}?"
    return "", f"DeepSpeed builds {', '.join(schema.deepspeed_schedulers)}; {_IN_THE_SCRIPT}"


def instead(key: Key, value: Any) -> str:
    """Advice for a deprecated key. A switch that is off is not replaced, because its replacement would turn it on."""
    return "remove it: it turns nothing on" if value is None or value is False else key.deprecated


def key_meant(schema: Schema, name: str, value: Any, kind: str, block: Block, path: str) -> str:
    """Advice for a key that an object does not have; "" if it is not clear what is meant.

    Args:
        schema: the keys of a DeepSpeed release.
        name: the key.
        value: its value.
        kind: JSON type of the value; a suggested key must accept it.
        block: the keys of the object.
        path: dotted path of the object, "" for the top level.
    """
    for meant in KEY_NAMES.get(name, ()):
        above, _, leaf = meant.rpartition(".")
        if above == path and leaf in block.keys:
            others = [other for other in KEY_NAMES[name] if other != meant and other in block.keys]
            return f"DeepSpeed calls it {leaf}" + (f"; or is {' or '.join(others)} meant?" if others else "")
        if not path or above == f"{path}.params":
            return f"DeepSpeed calls it {meant}"
        if not above and path in ("optimizer", "optimizer.params"):
            return f"DeepSpeed calls it {meant}, at the top level"
    fp16 = schema.top.keys["fp16"].block
    if path in ("bf16", "bfloat16") and fp16 is not None and name in fp16.keys:
        return "remove it: it belongs to fp16, and bf16 needs no loss scale"
    homes = _homes(schema, name, path, kind)
    if 0 < len(homes) <= 3:  # a key such as "enabled" exists in many objects
        return f"it belongs under {' or '.join(home or 'the top level' for home in homes)}"
    fitting = [other for other, key in block.keys.items() if _takes(key, kind)]
    near = nearest(name, fitting) or _same_words(name, fitting)
    if near is None:
        return ""
    key = block.keys[near]
    return instead(key, value) if key.deprecated else f"did you mean {near!r}?"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The only known name that differs by one typing error, by two in long names; None if there are none or several."""
    allowed = 1 if len(name) <= 6 else 2
    near = sorted((_edits(name.lower(), other.lower()), other) for other in known)
    if not near or near[0][0] > allowed or (len(near) > 1 and near[1][0] == near[0][0]):
        return None
    return near[0][1]


def _same_words(name: str, known: Iterable[str]) -> str | None:
    """The only known name with the same words in another order, or with some words more or fewer."""
    words = set(re.split("[^a-z0-9]+", name.lower()))
    split = {other: set(other.split("_")) for other in known}
    found = [other for other, theirs in split.items() if theirs == words]
    found = found or [
        other
        for other, theirs in split.items()
        if min(len(words), len(theirs)) > 1 and (words < theirs or theirs < words)
    ]
    return found[0] if len(found) == 1 else None


def _homes(schema: Schema, name: str, path: str, kind: str) -> list[str]:
    """Dotted paths of related objects in which DeepSpeed has this key.

    Every block is related to the top level. Related to a block are those above it, next to it and inside it. In other
    blocks, a key of the same name means something else.
    """
    found = []

    def visit(block: Block, at: str) -> None:
        if at != path and _related(at, path) and name in block.keys and _takes(block.keys[name], kind):
            found.append(at)
        for child, key in block.keys.items():
            if key.block is not None and child != "bfloat16":
                visit(key.block, f"{at}.{child}".lstrip("."))

    visit(schema.top, "")
    components = (
        ("optimizer.params", [schema.optimizers[own] for own in schema.deepspeed_types]),
        ("scheduler.params", [schema.schedulers[own] for own in schema.deepspeed_schedulers]),
    )
    for home, blocks in components:
        nearby = ("", "optimizer", "optimizer.params", "scheduler", "scheduler.params")
        if path != home and path in nearby and any(name in own.keys for own in blocks):
            found.append(home)
    return found


def _related(at: str, path: str) -> bool:
    parent = path.rpartition(".")[0]
    if not path:
        return True
    return (
        not at
        or path.startswith(f"{at}.")
        or at.startswith(f"{path}.")
        or bool(parent and at.rpartition(".")[0] == parent)
    )


def _takes(key: Key, kind: str) -> bool:
    """Whether the key may have a value of this JSON type. A string may be "auto", or a number in quotes."""
    if kind in ("string", "null"):
        return kind == "null" or key.block is None
    return kind in key.types or (kind == "integer" and "number" in key.types)


def _compact(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _edits(one: str, other: str) -> int:
    """Number of letters to add, remove, change or swap with the next one, to turn one name into the other."""
    rows = [list(range(len(other) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            edits = [rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b)]
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                edits.append(rows[-2][j - 2] + 1)
            row.append(min(edits))
        rows.append(row)
    return rows[-1][-1]
