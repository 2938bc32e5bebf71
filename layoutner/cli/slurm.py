"""`layoutner slurm-script`: the job scripts of slurm/, which an installed package carries too."""

import argparse

from layoutner.cli.arguments import Parser, add_command
from layoutner.cli.streams import print_file
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
        help="train.sh; sweep.sh, which submits the train.sh beside it once for each value of a setting; or what "
        "their README.md says (default: train)",
    )


def _print(options: argparse.Namespace) -> None:
    print_file((shipped_folder("slurm") / FILES[options.which]).read_text(encoding="utf-8"))
