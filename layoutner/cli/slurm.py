"""`layoutner slurm-script`: print the job scripts of slurm/, which are also part of the installed package."""

import argparse

from layoutner.console.arguments import Parser, add_command
from layoutner.console.streams import print_file
from layoutner.settings.shipped import shipped_folder

FILES = {"train": "train.sh", "sweep": "sweep.sh", "readme": "README.md"}


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `slurm-script`."""
    script = add_command(commands, "slurm-script", _print, "print a job script for Slurm")
    script.add_argument(
        "which",
        nargs="?",
        default="train",
        choices=list(FILES),
        help="train = train.sh; sweep = sweep.sh, which submits train.sh for each run of a sweep; readme = their "
        "README.md (default: train)",
    )


def _print(options: argparse.Namespace) -> None:
    print_file((shipped_folder("slurm") / FILES[options.which]).read_text(encoding="utf-8"))
