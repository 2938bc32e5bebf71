"""The command line: parse arguments, build Settings, call the command. Heavy imports are delayed until needed."""

import argparse
import os
import sys
from collections.abc import Sequence

from layoutner import __version__
from layoutner.cli import config, data, inference, runs, serving, slurm, sweep, training
from layoutner.console.arguments import Parser, add_command, add_settings, option_names, overrides, quiet
from layoutner.console.ending import report, stay
from layoutner.console.streams import flush, take_any_character
from layoutner.console.terminal import add_options, passed_on, showing
from layoutner.errors import Preempted, SettingsError, did_you_mean
from layoutner.settings.tree import load


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `layoutner`, `python -m layoutner` and the launchers. Exits with 0, 1, 2, 70, 75, 130 or 141."""
    take_any_character()
    code = 0
    try:
        _run(_without_local_rank(sys.argv[1:] if arguments is None else list(arguments)))
    except Preempted as stopped:
        code = report(stopped)
    except (Exception, KeyboardInterrupt) as error:
        code = report(error)
        stay()
        sys.exit(code)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Everything is written and all ranks have left. Skip the interpreter's teardown: a thread that gloo or NCCL
        # still runs can abort the process there, and a finished run would then look like a failed one.
        flush()
        os._exit(code)
    if code:
        sys.exit(code)


def _without_local_rank(arguments: list[str]) -> list[str]:
    """Drop the --local_rank=N that launchers put before the program's own arguments; LOCAL_RANK says the same.

    After the command name it is kept: `config migrate` takes old command lines that contain it.
    """
    while arguments and arguments[0].partition("=")[0] in ("--local_rank", "--local-rank"):
        arguments = arguments[1 if "=" in arguments[0] else 2 :]
    return arguments


def _run(arguments: list[str]) -> None:
    parser = Parser(
        prog="layoutner",
        description="Fine-tune LayoutLM-family models to label the words of scanned forms, with DeepSpeed.",
    )
    parser.add_argument("--version", action="version", version=f"layoutner {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    training.add_commands(commands)
    runs.add_commands(commands)
    sweep.add_commands(commands)
    demo = add_command(commands, "demo", _demo, "train, export and predict on synthetic forms; downloads nothing")
    add_settings(demo, config=False)
    add_options(demo)
    data.add_commands(commands)
    inference.add_commands(commands)
    serving.add_commands(commands)
    config.add_commands(commands)
    slurm.add_commands(commands)

    options, strangers = parser.parse_known_args(arguments)
    if strangers:
        raise SettingsError(_unknown(strangers[0], options.parser, option_names(parser)))
    options.do(options)


def _unknown(argument: str, command: Parser, everywhere: list[str]) -> str:
    """Error message for an argument that the command does not accept; `everywhere`: the options of all commands."""
    from layoutner.migration.old_script import OPTIONS, TRAIN

    name = argument.partition("=")[0]
    if name.lstrip("-") in OPTIONS[TRAIN]:
        return f"{argument}: an option of {TRAIN}; `layoutner config migrate -- OLD COMMAND` shows what replaces it"
    if name in everywhere:
        return f"{argument}: `{command.prog}` does not take it; --help lists its options"
    own = option_names(command)
    key = name.lstrip("-").rpartition(".")[2]
    same = [one for one in own if one.rpartition(".")[2] == key]
    return f"unknown argument {argument}: {did_you_mean(same[0] if same else name, own)}"


def _demo(options: argparse.Namespace) -> None:
    given = overrides(options)
    settings = load("demo", given)
    quiet()
    from layoutner.demo.run import run_demo

    with showing(options, sys.stdout):
        run_demo(settings, given, passed_on(options))
