"""`layoutner data ...`: check documents before training. Imports torch only if a model is given."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from layoutner.cli.arguments import Parser, add_command, add_setting, overrides, quiet
from layoutner.settings.data import DataSettings
from layoutner.settings.tree import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layoutner.documents.check import CountWindows
    from layoutner.pages.document import Document

# Settings that say how documents are read.
# fmt: off
KEYS = (
    "format", "labels", "ignore_types", "group_by", "box_unit", "box_format", "invalid_boxes", "box_level",
    "max_length", "stride", "max_image_mib",
)
# fmt: on


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `data` and its subcommands."""
    data = commands.add_parser("data", help="check documents")
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    check = add_command(actions, "check", _check, "count documents and words, list problems; exits 1 on errors")
    check.add_argument("path", type=Path, help="folder or file of documents")
    for key in KEYS:
        add_setting(check, "data", key, f"--data.{key}")
    check.add_argument("--split", choices=["train", "eval", "test"], help="read only this split (default: all splits)")
    check.add_argument("--model", metavar="NAME", help="checkpoint whose tokenizer counts windows and tokens")
    check.add_argument("--format", choices=["text", "json"], default="text", help="(default: text)")
    check.add_argument("--all", action="store_true", help="print every problem, not only the first ten of each kind")


def _check(options: argparse.Namespace) -> None:
    from layoutner.documents.check import check

    settings = load(None, overrides(options)).data
    report = check(settings, options.path, options.split, _counter(options.model, settings) if options.model else None)
    print(report.to_json() if options.format == "json" else report.to_text(options.all))
    if report.fatal:
        sys.exit(1)


def _counter(name: str, settings: DataSettings) -> "CountWindows":
    """A function that counts windows and tokens of documents, using the tokenizer of a pretrained model."""
    quiet()
    from layoutner.corpus.windows import WindowSplitter
    from layoutner.models.loading import open_pretrained
    from layoutner.settings.tree import ModelSettings

    checkpoint = open_pretrained(ModelSettings(name_or_path=name))
    checkpoint.require_length(settings.max_length)
    splitter = WindowSplitter(checkpoint.tokenizer, settings.max_length, settings.stride)

    def count(documents: "Sequence[Document]") -> tuple[int, int]:
        windows = splitter.split(documents, None)
        return len(windows), sum(window.length for window in windows)

    return count
