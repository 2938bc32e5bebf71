"""`layoutner data ...`: look at documents before anybody trains on them. No torch, unless a model is named."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from layoutner.cli.arguments import Parser, add_command, overrides, quiet
from layoutner.config.settings import DataSettings, load

if TYPE_CHECKING:
    from layoutner.data.windows import Windower


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `data` and what stands below it."""
    data = commands.add_parser("data", help="look at documents")
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    check = add_command(actions, "check", _check, "count what there is and list what is wrong; exits 1 on errors")
    check.add_argument("path", type=Path, help="folder or file of documents")
    for key in ("format", "labels", "fix", "box_level", "max_length", "stride", "max_image_mib"):
        field = DataSettings.model_fields[key]
        check.add_argument(
            f"--data.{key}",
            *([f"--{key}"] if key in ("labels", "fix") else []),
            dest=f"data.{key}",
            metavar=None if get_args(field.annotation)[1:] and key != "labels" else "VALUE",
            choices=get_args(field.annotation) if key in ("format", "fix", "box_level") else None,
            help=(field.description or "") + ("" if field.default is None else f" (default: {field.default})"),
        )
    check.add_argument(
        "--split", choices=["train", "eval", "test"], help="read this one alone (default: all there are)"
    )
    check.add_argument("--model", metavar="NAME", help="checkpoint whose tokenizer counts windows and tokens")
    check.add_argument("--format", choices=["text", "json"], default="text", help="(default: text)")
    check.add_argument("--all", action="store_true", help="print every problem, not the first ten of each kind")


def _check(options: argparse.Namespace) -> None:
    from layoutner.data.check import check

    settings = load(None, overrides(options)).data
    report = check(settings, options.path, options.split, _windower(options.model, settings) if options.model else None)
    print(report.to_json() if options.format == "json" else report.to_text(options.all))
    if report.fatal:
        sys.exit(1)


def _windower(name: str, settings: DataSettings) -> "Windower":
    quiet()
    from layoutner.config.settings import ModelSettings
    from layoutner.data.windows import Windower
    from layoutner.model.loading import open_checkpoint

    checkpoint = open_checkpoint(ModelSettings(name_or_path=name))
    checkpoint.demand_length(settings.max_length)
    return Windower(checkpoint.tokenizer, settings.max_length, settings.stride)
