"""`layoutner status`, `watch` and `compare`: look at the folders of runs."""

import argparse
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from layoutner.cli.arguments import Parser, add_command
from layoutner.cli.terminal import is_terminal, redrawn
from layoutner.errors import SettingsError, require_all


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `status`, `watch` and `compare`."""
    status = add_command(commands, "status", _status, "say how far runs are, and whether they are running")
    status.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    watch = add_command(commands, "watch", _watch, "show how far runs are, again and again until none is running")
    watch.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    watch.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="how often to look (default: 5)")
    compare = add_command(commands, "compare", _compare, "show in which settings runs differ, and what came of them")
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")


def _status(options: argparse.Namespace) -> None:
    from layoutner.runs.status import read_status

    def show(run: Path) -> None:
        print(read_status(run))

    require_all("not every folder has a run", (partial(show, run) for run in options.runs))


def _watch(options: argparse.Namespace) -> None:
    from layoutner.runs.status import Status, read_status

    if not 0 < options.every < float("inf"):
        raise SettingsError(f"--every {options.every:g}: give the seconds between two looks, more than 0")
    found: dict[Path, Status] = {}

    def look(run: Path) -> None:
        found[run] = read_status(run)

    before: list[Status] = []
    with redrawn(sys.stdout) as show:
        while True:
            require_all("not every folder has a run", (partial(look, run) for run in options.runs))
            now = [replace(status, seconds=None) for status in found.values()]
            if now != before or is_terminal(sys.stdout):
                show("\n".join(map(str, found.values())))
            before = now
            if all(status.state != "running" for status in now):
                return
            time.sleep(options.every)


def _compare(options: argparse.Namespace) -> None:
    from layoutner.runs.compare import compare

    print(compare(options.runs))
