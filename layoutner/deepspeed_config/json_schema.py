"""The keys of a release as a JSON Schema (draft 2020-12), for editors that complete and check a config."""

import re
from collections.abc import Sequence

from layoutner.deepspeed_config.key import Block, Key
from layoutner.deepspeed_config.schema import Schema

Json = dict[str, object]
_AUTO: Json = {"const": "auto"}


def json_schema(of: Schema, auto: bool = False) -> Json:
    """A JSON Schema for DeepSpeed configs. It rejects keys that DeepSpeed does not read.

    Args:
        of: the keys of a DeepSpeed release.
        auto: whether every value may be "auto", for configs that Hugging Face's Trainer or accelerate fills in.
    """
    schema: Json = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "DeepSpeed config",
        **_of_block(of.top, auto),
        "patternProperties": {
            r"^\$schema$": {"type": "string", "description": "The schema with which an editor checks this file."}
        },
    }
    properties = schema["properties"]
    assert isinstance(properties, dict)
    types: list[tuple[Json, Block]] = [(_any_case([name]), of.optimizers[name]) for name in of.deepspeed_types]
    types += [({"const": name}, of.optimizers[lower]) for lower, name in of.torch_types.items()]
    named = [*_names([*of.deepspeed_types.values()], [*of.torch_types.values()]), {"type": "null"}]
    schedules: list[tuple[Json, Block]] = [({"const": name}, block) for name, block in of.schedulers.items()]
    properties["optimizer"] |= _by_type(types, auto)
    properties["optimizer"]["properties"]["type"] |= {"anyOf": [*named, *([_AUTO] if auto else [])]}
    properties["scheduler"] |= _by_type(schedules, auto)
    properties["scheduler"]["properties"]["type"] |= {"enum": [*of.schedulers, None, *(["auto"] if auto else [])]}
    return schema


def _of_block(block: Block, auto: bool) -> Json:
    """Schema of an object with these keys and, unless it is open, no others."""
    schema: Json = {"type": "object"}
    if block.meaning:
        schema["description"] = block.meaning
    schema["properties"] = {name: _of_key(key, auto, block.drops_auto) for name, key in block.keys.items()}
    if not block.open:
        schema["additionalProperties"] = False
    elif block.others is not None:
        schema["additionalProperties"] = _of_key(block.others, auto)
    required = [name for name, key in block.keys.items() if key.required]
    return schema | ({"required": required} if required else {})


def _of_key(key: Key, auto: bool, dropped: bool = False) -> Json:
    """Schema of a key. It allows "auto" if DeepSpeed drops it (`dropped`) or a framework fills it in (`auto`)."""
    about: Json = {"description": f"{key.meaning} Unit: {key.unit}." if key.unit else key.meaning}
    if key.default is not None or "null" in key.types:
        about["default"] = key.default
    if key.deprecated:
        about |= {"deprecated": True, "description": f"{key.meaning} Use {key.deprecated} instead."}
    value = _value(key, auto)
    if (dropped or (auto and key.block is None)) and not (
        "string" in key.types and (not key.choices or "auto" in key.choices)
    ):
        return {"anyOf": [value, _AUTO], **about}
    return value | about


def _value(key: Key, auto: bool) -> Json:
    """Schema of the value of a key, without the description."""
    types = [name for name in key.types if not (name == "integer" and "number" in key.types)]
    schema: Json = {"type": types[0] if len(types) == 1 else types}
    if key.block is not None:
        block = _of_block(key.block, auto)
        del block["type"]
        schema |= block
    if key.items is not None:
        schema["items"] = _of_key(key.items, auto)
    for word, bound in (
        ("minimum", key.minimum),
        ("exclusiveMinimum", key.exclusive_minimum),
        ("maximum", key.maximum),
        ("exclusiveMaximum", key.exclusive_maximum),
    ):
        if bound is not None:
            schema[word] = bound
    if not key.choices:
        return schema
    if key.case_insensitive:
        names = [str(choice) for choice in key.choices if choice is not None]
        return schema | {"anyOf": _names(names, []) + ([{"type": "null"}] if "null" in types else [])}
    return schema | {"enum": list(key.choices)}


def _names(any_case: Sequence[str], exact: Sequence[str]) -> list[Json]:
    """Schemas of names: a list for editors to offer, and a pattern for `any_case` in upper or lower case."""
    return [{"enum": [*any_case, *exact]}, _any_case(any_case)]


def _any_case(names: Sequence[str]) -> Json:
    """Schema of these names in upper or lower case. Patterns of JSON Schema have no flag for this."""
    letters = ["".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else re.escape(c) for c in name) for name in names]
    return {"type": "string", "pattern": f"^(?:{'|'.join(letters)})$"}


def _by_type(types: Sequence[tuple[Json, Block]], auto: bool) -> Json:
    """Schema of `params`, depending on `type`."""
    return {
        "allOf": [
            {
                "if": {"properties": {"type": name}, "required": ["type"]},
                "then": {"properties": {"params": _of_block(block, auto)}},
            }
            for name, block in types
        ]
    }
