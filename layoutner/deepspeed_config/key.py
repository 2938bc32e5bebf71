"""What one key of a DeepSpeed config may hold, and what one object of such keys looks like."""

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
    """One key of a DeepSpeed config. A note (notes/) is a Key that holds only what the generated data lacks."""

    meaning: str
    """One line, in plain words."""
    unit: str = ""
    """What a number counts: "bytes", "elements", "optimizer steps", "milliseconds", "samples", "GPUs", ... or ""."""
    types: tuple[str, ...] = ()
    """JSON types accepted: "boolean", "integer", "number", "string", "array", "object", "null".

    As in JSON Schema, a number without a fraction (5e8, 2.0) is an integer, and an integer is a number.
    """
    default: object = None
    """DeepSpeed's default; None where there is none ("null" stands in `types` only if JSON null is accepted)."""
    minimum: float | None = None
    """Inclusive lower bound that DeepSpeed, or sense, demands."""
    exclusive_minimum: float | None = None
    """Exclusive lower bound."""
    maximum: float | None = None
    """Inclusive upper bound."""
    exclusive_maximum: float | None = None
    """Exclusive upper bound."""
    choices: tuple[object, ...] = ()
    """Allowed values, null among them where it is; empty where any value of the types will do."""
    case_insensitive: bool = False
    """Whether strings are compared with `choices` without regard to case."""
    block: Block | None = None
    """The keys of a nested object."""
    items: Key | None = None
    """What the elements of an array are."""
    deprecated: str = ""
    """What to use instead, where DeepSpeed marks the key as deprecated."""
    auto: bool = False
    """Whether "auto" is a value with a meaning of its own in DeepSpeed here."""
    required: bool = False
    """Whether DeepSpeed demands the key once the object that holds it is there."""


@dataclass(frozen=True)
class Block:
    """The keys of one object."""

    keys: dict[str, Key]
    strict: bool
    """True: DeepSpeed rejects unknown keys here. False: it ignores them without a word."""
    open: bool = False
    """Free-form: any key is the user's own (a dict of module names, for one)."""
    meaning: str = ""
    """What the object is for, and what it needs, in plain words."""
    drops_auto: bool = False
    """Whether DeepSpeed drops every key here, known or not, whose value is the text "auto", and so takes defaults."""
    others: Key | None = None
    """In an open block: what the value of every key not in `keys` is."""


Notes = dict[str, str | Key | None]
"""The notes on the keys of one object: the meaning alone, or a Key that says more.

"*" stands for any other key, and None for a value that may be anything.
"""
