"""What mkdocs is told to do: put the settings reference together, and name the anchors of headings as GitHub does."""

import re
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic.fields import FieldInfo

from layoutner.settings.tree import sections

MARK = "<!-- The tables of all settings are put here by docs/hooks.py. -->"

TYPES = {str: "text", int: "whole number", float: "number", Path: "path", bool: "true or false"}
LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def on_config(config: Any) -> Any:
    """Name headings as GitHub does, so that links work there and in the site."""
    config.mdx_configs["toc"]["slugify"] = anchor
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the settings reference."""
    return markdown.replace(MARK, settings_tables()) if MARK in markdown else markdown


def anchor(heading: str, separator: str = "-") -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def settings_tables() -> str:
    """One heading and one table per section of the Settings tree."""
    parts = []
    for name, model in sections().items():
        about = (model.__doc__ or "").partition(":")[2].strip()
        parts.append(f"## [{name}]\n")
        if about:
            parts.append(f"{about[:1].upper()}{about[1:]}\n")
        parts.append("| setting | type | default | description |\n|---|---|---|---|")
        parts += [
            f"| `{name}.{key}` | {_type(field)} | {_default(field)} | {_text(field)} |"
            for key, field in model.model_fields.items()
        ]
        parts.append("")
    return "\n".join(parts)


def _type(field: FieldInfo) -> str:
    choices, kinds = _choices(field.annotation)
    named = [_list(kind) if get_origin(kind) is tuple else TYPES.get(kind, str(kind)) for kind in kinds]
    text = " or ".join([*named, *([", ".join(f"`{choice}`" for choice in choices)] if choices else [])])
    limits = [
        f"{LIMITS[name]} {getattr(rule, name)}" for rule in field.metadata for name in LIMITS if hasattr(rule, name)
    ]
    return ", ".join([text, *limits])


def _list(kind: Any) -> str:
    return "list of pairs" if get_origin(get_args(kind)[0]) is tuple else "list of texts"


def _choices(annotation: Any) -> tuple[list[Any], list[Any]]:
    """The values that an annotation lists, and the types that it names otherwise."""
    if annotation is type(None):
        return [], []
    if isinstance(annotation, type) and not get_args(annotation):
        return [], [annotation]
    if get_origin(annotation) is tuple:
        return [], [annotation]
    if get_origin(annotation) is Annotated:
        return _choices(get_args(annotation)[0])
    if isinstance(get_args(annotation)[0], str | int):
        return list(get_args(annotation)), []
    both = [_choices(part) for part in get_args(annotation)]
    return [choice for choices, _ in both for choice in choices], [kind for _, kinds in both for kind in kinds]


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value == ():
        return "not set"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{','.join(map(str, value))}`" if isinstance(value, tuple) else f"`{value}`"


def _text(field: FieldInfo) -> str:
    return (field.description or "").replace("|", "\\|").replace("<", "&lt;")
