"""Shared by all commands: the argument parser, options for settings, and quiet libraries."""

import argparse
import os
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

from layoutner.errors import SettingsError
from layoutner.settings.recipes import recipe_names
from layoutner.settings.tree import sections


class Parser(argparse.ArgumentParser):
    """ArgumentParser that raises an error instead of exiting, and does not accept abbreviated options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; `{self.prog} --help` lists the options")


def add_command(
    commands: "argparse._SubParsersAction[Parser]", name: str, do: Callable[[argparse.Namespace], None], about: str
) -> Parser:
    """Add a command. The parsed namespace also contains its handler (`do`) and its `parser`."""
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
        add_config(parser)
    for section, model in sections().items():
        group = parser.add_argument_group(f"[{section}]")
        for key in model.model_fields:
            add_setting(group, section, key)


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="X", help=f"TOML file, or the name of a recipe: {', '.join(recipe_names())}"
    )


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
    """Add a setting as an option, with the same help text and list of choices in every command.

    Args:
        names: names of the option; default: --section.key.
        dest: attribute of the parsed value; default: section.key, which `overrides` reads.
        default: value if the option is not given; None leaves it to Settings.
        shown: default to print in the help; default: that of the setting, if it has one.
        require: let argparse reject a value that is not one of the choices. Otherwise `load` rejects it, together with
            all other problems.
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
    """All values of this type as text, without None; () if they cannot be listed."""
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
    """Settings given on the command line: section -> key -> text."""
    tree: dict[str, dict[str, str]] = {}
    for name, value in vars(options).items():
        section, _, key = name.partition(".")
        if key and value is not None:
            tree.setdefault(section, {})[key] = value
    return tree


def quiet() -> None:
    """Let libraries print errors only, and no progress bars."""
    level = os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if level == "error":
        transformers.utils.logging.set_verbosity_error()  # where it was imported before
