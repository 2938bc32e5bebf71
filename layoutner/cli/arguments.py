"""What the commands share: the parser, the options that are settings, and quiet libraries."""

import argparse
import os
from collections.abc import Callable
from typing import Any, NoReturn, get_args

from layoutner.config.errors import UserError
from layoutner.config.recipes import recipe_names
from layoutner.config.settings import sections


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing usage and exiting, and that never abbreviates."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` lists what there is")


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
        for key, field in model.model_fields.items():
            default = "" if field.default in (None, ()) else f" (default: {field.default})"
            text = f"{field.description}{default}".replace("%", "%%")
            group.add_argument(f"--{section}.{key}", dest=f"{section}.{key}", metavar="VALUE", help=text)


def choices(annotation: Any) -> list[str] | None:
    """What a setting of closed choices takes; None where it takes other values too."""
    found = [value for part in (annotation, *get_args(annotation)) for value in get_args(part)]
    return [value for value in found if isinstance(value, str)] or None


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
