"""`layoutner status` and `compare`: look at the folders of runs."""

import argparse
from functools import partial
from pathlib import Path

from layoutner.cli.arguments import Parser, add_command
from layoutner.errors import require_all


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `status` and `compare`."""
    status = add_command(commands, "status", _status, "say how far runs are, and whether they are running")
    status.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    compare = add_command(commands, "compare", _compare, "show in which settings runs differ, and what came of them")
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")


def _status(options: argparse.Namespace) -> None:
    from layoutner.runs.status import read_status

    def show(run: Path) -> None:
        print(read_status(run))

    require_all("not every folder has a run", (partial(show, run) for run in options.runs))


def _compare(options: argparse.Namespace) -> None:
    from layoutner.runs.compare import compare

    print(compare(options.runs))
