"""`layoutner status`, `watch`, `compare`, `report` and `dashboard`: look at runs."""

import argparse
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from layoutner.console.arguments import Parser, add_command, add_config, add_setting, overrides
from layoutner.console.terminal import is_terminal, redrawn
from layoutner.errors import SettingsError, require_all
from layoutner.settings.tree import load


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `status`, `watch`, `compare`, `report` and `dashboard`."""
    status = add_command(commands, "status", _status, "say how far runs are, and whether they are running")
    status.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    watch = add_command(commands, "watch", _watch, "show how far runs are, again and again until none is running")
    watch.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    watch.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="how often to look (default: 5)")
    compare = add_command(commands, "compare", _compare, "show in which settings runs differ, and what came of them")
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    report = add_command(commands, "report", _report, "write runs as one HTML page: curves, scores and worst pages")
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    report.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="HTML file to write")
    report.add_argument(
        "--pages", type=int, default=50, help="how many of the worst pages, of all runs together (default: 50)"
    )
    add_setting(report, "data", "max_image_mib", require=True)
    dashboard = add_command(
        commands, "dashboard", _dashboard, "create or update the view of a Weights & Biases project that shows runs"
    )
    add_config(dashboard)
    add_setting(dashboard, "wandb", "project")
    add_setting(dashboard, "wandb", "entity")


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


def _report(options: argparse.Namespace) -> None:
    if options.pages < 0:
        raise SettingsError(f"--pages {options.pages}: give 0 or more")
    if options.output.is_dir():
        raise SettingsError(f"--output {options.output}: is a folder; name a file in it")
    max_image_mib = load(None, overrides(options)).data.max_image_mib
    from layoutner.reports.report import report_runs

    report_runs(options.runs, options.output, options.pages, max_image_mib)
    print(f"written to {options.output}")


def _dashboard(options: argparse.Namespace) -> None:
    from layoutner.tracking.dashboard import save_dashboard

    print(save_dashboard(load(options.config, overrides(options)).wandb))
