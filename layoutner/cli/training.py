"""`layoutner train`, `cross-validate`, which trains once per fold, and commands that estimate the batch size."""

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from layoutner.console.arguments import Parser, add_command, add_settings, overrides, quiet
from layoutner.console.ending import ending_together
from layoutner.console.terminal import add_options, showing
from layoutner.errors import SettingsError
from layoutner.progress import task
from layoutner.settings.schedule import ScheduleSettings
from layoutner.settings.tree import Settings, load

if TYPE_CHECKING:
    from layoutner.distributed.ranks import Ranks


def add_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `train`, `cross-validate`, `noise-scale`, `noise-ramp` and `critical-batch`."""
    train = add_command(commands, "train", _train, "train, evaluate, save; use deepspeed or torchrun for many ranks")
    add_settings(train)
    add_options(train)
    cross = add_command(
        commands,
        "cross-validate",
        _cross_validate,
        "train data.folds models, and score each on the documents that it was not trained on",
    )
    add_settings(cross)
    add_options(cross)
    noise = add_command(
        commands,
        "noise-scale",
        _noise_scale,
        "measure how much of the gradient of a step is noise, and so how large a batch pays off; trains nothing",
    )
    add_settings(noise)
    add_options(noise)
    noise.add_argument("--steps", type=int, default=20, help="global batches to measure (default: 20)")
    ramp = add_command(
        commands,
        "noise-ramp",
        _noise_ramp,
        "print a batch.ramp that follows the noise scales which a run has measured; trains nothing",
    )
    ramp.add_argument("run", type=Path, help="folder of a run with run.gradient_statistics_every and a constant batch")
    critical = add_command(
        commands,
        "critical-batch",
        _critical_batch,
        "train branches of a checkpoint with larger batches, and compare their losses; writes nothing",
    )
    add_settings(critical)
    add_options(critical)
    critical.add_argument(
        "--factors",
        type=int,
        nargs="+",
        default=[1, 2, 4, 8],
        help="batches to try, as multiples of batch.global_batch_size (default: 1 2 4 8)",
    )
    critical.add_argument(
        "--windows", type=int, help="windows to train each branch on (default: 20 steps of the largest batch)"
    )


def _train(options: argparse.Namespace) -> None:
    from layoutner.runs.readiness import require_ready

    settings = load(options.config, overrides(options))
    require_ready(settings)
    with _joined(options, settings) as ranks:
        from layoutner.runs.single import run_once

        run_once(settings, ranks)


def _cross_validate(options: argparse.Namespace) -> None:
    from layoutner.runs.folds import number_of_folds, settings_of_fold
    from layoutner.runs.readiness import require_ready

    settings = load(options.config, overrides(options))
    require_ready(*(settings_of_fold(settings, number) for number in range(1, number_of_folds(settings) + 1)))
    with _joined(options, settings) as ranks:
        from layoutner.runs.cross_validation import cross_validate

        cross_validate(settings, ranks)


def _noise_scale(options: argparse.Namespace) -> None:
    from layoutner.runs.readiness import require_ready

    if options.steps < 2:
        raise SettingsError(f"--steps {options.steps}: an interval takes at least two; 20 or more are better")
    # It trains nothing, so the schedule of these settings does not matter.
    schedule = ScheduleSettings(max_steps=options.steps, shape="constant")
    settings = load(options.config, overrides(options)).model_copy(update={"schedule": schedule})
    require_ready(settings, writes=False)
    with _joined(options, settings) as ranks:
        from layoutner.runs.noise_scale import measure_noise

        _print_if_quiet(options, ranks, measure_noise(settings, options.steps, ranks))


def _noise_ramp(options: argparse.Namespace) -> None:
    from layoutner.runs.noise_ramp import noise_ramp

    print(noise_ramp(options.run))


def _critical_batch(options: argparse.Namespace) -> None:
    from layoutner.runs.readiness import require_ready

    factors = sorted(set(options.factors))
    if factors[0] != 1 or len(factors) < 2:
        raise SettingsError(f"--factors {' '.join(map(str, options.factors))}: give 1 and larger ones, as in 1 2 4")
    if options.windows is not None and options.windows < 1:
        raise SettingsError(f"--windows {options.windows}: at least one window is needed")
    settings = load(options.config, overrides(options))
    require_ready(settings, writes=False)
    with _joined(options, settings) as ranks:
        from layoutner.runs.critical_batch import measure_critical_batch

        _print_if_quiet(options, ranks, measure_critical_batch(settings, factors, options.windows, ranks))


def _print_if_quiet(options: argparse.Namespace, ranks: "Ranks", result: object) -> None:
    """Print the result of a command that writes no files; it is among the messages, unless these are not shown."""
    if options.quiet and ranks.is_rank_zero:
        print(result)


@contextmanager
def _joined(options: argparse.Namespace, settings: Settings) -> "Iterator[Ranks]":
    """Join the ranks, and show the messages of layoutner on standard output; those of DeepSpeed with --verbose."""
    quiet()
    from layoutner.distributed.ranks import Ranks

    ranks = Ranks.join(settings.run.rank_timeout, settings.run.device)
    with ending_together(ranks), showing(options, sys.stdout, ranks.is_rank_zero):
        with task("loading DeepSpeed"):
            import layoutner.engine.engine  # noqa: F401
        if options.verbose:
            deepspeed = logging.getLogger("DeepSpeed")  # its import sets the level to WARNING
            for one in (deepspeed, *deepspeed.handlers):
                one.setLevel(logging.INFO)  # type: ignore[attr-defined]
        yield ranks
