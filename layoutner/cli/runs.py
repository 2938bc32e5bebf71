"""`layoutner status`: look at the folders of runs."""

import argparse
from pathlib import Path

from layoutner.cli.arguments import Parser, add_command


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `status`."""
    status = add_command(commands, "status", _status, "say how far runs are, and whether they are running")
    status.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")


def _status(options: argparse.Namespace) -> None:
    from layoutner.runs.status import read_status

    for run in options.runs:
        print(read_status(run))
