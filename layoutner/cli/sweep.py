"""`layoutner sweep`, which trains the runs of a file and ranks them."""

import argparse
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from layoutner.console.arguments import Parser, add_command
from layoutner.console.terminal import add_options, showing
from layoutner.errors import LayoutnerError, Preempted, SettingsError, raise_gathered

if TYPE_CHECKING:
    from layoutner.sweeps.sweep import Sweep


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `sweep`."""
    sweep = add_command(
        commands, "sweep", _sweep, "train once for each combination of values of settings, and rank the runs"
    )
    sweep.add_argument("file", metavar="FILE", type=Path, help="TOML file with the values: see docs/sweeps.md")
    sweep.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: 1)")
    sweep.add_argument("--ranks", type=int, metavar="N", help="processes of a run, one for each GPU (default: 1)")
    sweep.add_argument("--retry", action="store_true", help="also train the runs that failed before")
    add_options(sweep)
    instead = sweep.add_mutually_exclusive_group()
    instead.add_argument("--report", action="store_true", help="train nothing; show the results so far")
    instead.add_argument(
        "--slurm",
        action="store_true",
        help="train nothing; write what a Slurm array needs, and print the path of its list; slurm/sweep.sh calls this",
    )


def _sweep(options: argparse.Namespace) -> None:
    from layoutner.sweeps.processes import train_sweep, write_array
    from layoutner.sweeps.sweep import read_sweep

    for name, value in (("--jobs", options.jobs), ("--ranks", options.ranks)):
        if value is not None and (options.report or options.slurm):
            raise SettingsError(f"{name} {value}: it is for runs on this machine; leave it out")
        if value is not None and value < 1:
            raise SettingsError(f"{name} {value}: give at least 1")
    if options.retry and (options.report or options.slurm):
        raise SettingsError("--retry: it is for runs on this machine; leave it out")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError("layoutner sweep starts processes itself: call it without a launcher, with --ranks N")
    sweep = read_sweep(options.file)
    if options.slurm:
        print(write_array(sweep, partial(print, file=sys.stderr)))
        return
    failed: list[str] = []
    interrupted: list[str] = []
    if not options.report:
        say = logging.getLogger("layoutner").info
        with showing(options, sys.stdout):
            jobs, ranks = options.jobs or 1, options.ranks or 1
            failed, interrupted = train_sweep(sweep, jobs, ranks, options.retry, say, options.verbose)
    _report(sweep, shows=options.report or not options.quiet)
    raise_gathered(LayoutnerError, "runs failed, and --retry tries them again", failed)
    raise_gathered(Preempted, "runs were interrupted, and the same command goes on with them", interrupted)


def _report(sweep: "Sweep", shows: bool) -> None:
    """Print the results of a sweep if `shows`, and write them and their figures to its folder."""
    from layoutner.sweeps.figures import draw_figures
    from layoutner.sweeps.results import read_results, table, write_results

    if not sweep.folder.is_dir():
        raise SettingsError(f"output_dir = {sweep.folder}: no such folder: no run of this sweep has started")
    results = read_results(sweep)
    write_results(sweep, results)
    draw_figures(sweep, results)
    if shows:
        print(table(sweep, results))
