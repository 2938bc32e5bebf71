"""What the commands share: the parser, the options that are settings, and quiet libraries."""

import argparse
import os
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

from layoutner.errors import SettingsError
from layoutner.settings.recipes import recipe_names
from layoutner.settings.tree import sections


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing usage and exiting, and that never abbreviates."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; `{self.prog} --help` lists what there is")


def add_command(
    commands: "argparse._SubParsersAction[Parser]", name: str, do: Callable[[argparse.Namespace], None], about: str
) -> Parser:
    """Add a command; what is parsed holds, beside its options, what to `do` with them and their `parser`."""
    parser = commands.add_parser(name, help=about)
    parser.set_defaults(do=do, parser=parser)
    return parser


def option_names(parser: argparse.ArgumentParser) -> list[str]:
    """All options of a parser and of the commands below it, such as "--config"."""
    names: list[str] = []
    for action in parser._actions:
        names += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            names += [name for below in action.choices.values() for name in option_names(below)]
    return names


def add_settings(parser: argparse.ArgumentParser, config: bool = True) -> None:
    if config:
        parser.add_argument(
            "--config", metavar="X", help=f"TOML file, or the name of a recipe: {', '.join(recipe_names())}"
        )
    for section, model in sections().items():
        group = parser.add_argument_group(f"[{section}]")
        for key in model.model_fields:
            add_setting(group, section, key)


def add_setting(
    parser: argparse._ActionsContainer,
    section: str,
    key: str,
    *names: str,
    dest: str | None = None,
    default: Any = None,
    shown: str | None = None,
    require: bool = False,
) -> None:
    """Add a setting as an option. All commands describe one, and show what can be chosen, in this one way.

    Args:
        names: of the option; --section.key where none are given.
        dest: what the parsed value is called; section.key by default, where `overrides` finds it.
        default: what is parsed where the option is not given; None leaves it to Settings.
        shown: the default as the help says it; that of the setting, where it has one.
        require: refuse what is none of the choices at once. Else `load` does, together with all other problems.
    """
    field = sections()[section].model_fields[key]
    choices = closed_choices(field.annotation)
    if shown is None and field.default not in (None, ()):
        shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
    text = f"{field.description}{'' if shown is None else f' (default: {shown})'}".replace("%", "%%")
    parser.add_argument(
        *(names or (f"--{section}.{key}",)),
        dest=dest or f"{section}.{key}",
        default=default,
        metavar=f"{{{','.join(choices)}}}" if choices else "VALUE",
        choices=choices if require and choices else None,
        help=text,
    )


def closed_choices(annotation: Any) -> tuple[str, ...]:
    """All that a setting of this type can be, as text, beside not being given; () where that is no list."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is bool:
        return ("true", "false")
    if origin is Literal:
        return tuple(str(value) for value in parts)
    if origin is Annotated:
        return closed_choices(parts[0])
    if origin in (Union, UnionType):
        each = [closed_choices(part) for part in parts if part is not type(None)]
        return tuple(choice for choices in each for choice in choices) if all(each) else ()
    return ()


def overrides(options: argparse.Namespace) -> dict[str, dict[str, str]]:
    """What the command line says of Settings, as text."""
    tree: dict[str, dict[str, str]] = {}
    for name, value in vars(options).items():
        section, _, key = name.partition(".")
        if key and value is not None:
            tree.setdefault(section, {})[key] = value
    return tree


def quiet() -> None:
    """Libraries speak up when something is wrong, not while it goes well."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    transformers.utils.logging.disable_progress_bar()
