"""Description of one key of a DeepSpeed config, and of an object with such keys."""

from __future__ import annotations

from dataclasses import dataclass

BOOLEAN = ("boolean",)
INTEGER = ("integer",)
NUMBER = ("number",)
STRING = ("string",)
ARRAY = ("array",)
OBJECT = ("object",)
NULL = ("null",)
ANY = BOOLEAN + INTEGER + NUMBER + STRING + ARRAY + OBJECT + NULL


@dataclass(frozen=True)
class Key:
    """One key of a DeepSpeed config. A note (notes/) is a Key with only those fields that the generated data lacks."""

    meaning: str
    """What the key means, in one line."""
    unit: str = ""
    """What a number counts: "bytes", "elements", "optimizer steps", "milliseconds", "samples", "GPUs", ... or ""."""
    types: tuple[str, ...] = ()
    """JSON types accepted: "boolean", "integer", "number", "string", "array", "object", "null".

    As in JSON Schema, a number without a fraction (5e8, 2.0) is an integer, and an integer is a number.
    """
    default: object = None
    """DeepSpeed's default; None if there is none. (JSON null is accepted only if `types` contains "null".)"""
    minimum: float | None = None
    """Inclusive lower bound, which DeepSpeed enforces or which follows from the meaning."""
    exclusive_minimum: float | None = None
    """Exclusive lower bound."""
    maximum: float | None = None
    """Inclusive upper bound."""
    exclusive_maximum: float | None = None
    """Exclusive upper bound."""
    choices: tuple[object, ...] = ()
    """Allowed values, with None for null; empty if every value of the types is allowed."""
    case_insensitive: bool = False
    """Whether upper and lower case are the same when strings are compared with `choices`."""
    block: Block | None = None
    """The keys of a nested object."""
    items: Key | None = None
    """Description of the elements of an array."""
    deprecated: str = ""
    """What to use instead, if DeepSpeed marks the key as deprecated; else ""."""
    auto: bool = False
    """Whether DeepSpeed itself gives "auto" a meaning here."""
    required: bool = False
    """Whether DeepSpeed requires the key in the object that contains it."""


@dataclass(frozen=True)
class Block:
    """The keys of one object."""

    keys: dict[str, Key]
    strict: bool
    """True: DeepSpeed rejects unknown keys here. False: it ignores them silently."""
    open: bool = False
    """Whether any key is allowed, such as names of modules."""
    meaning: str = ""
    """What the object is for, and what it requires."""
    drops_auto: bool = False
    """Whether DeepSpeed drops keys here whose value is "auto", known or not, and uses their defaults."""
    others: Key | None = None
    """In an open block: description of the keys that are not in `keys`."""


Notes = dict[str, str | Key | None]
"""The notes on the keys of one object: only the meaning, or a Key with more.

"*" stands for any other key. None means that the value may be anything.
"""
