"""The command line: reads arguments, builds Settings, hands over. Heavy imports wait until a command needs them."""

import argparse
import os
import sys
from collections.abc import Sequence

from layoutner import __version__
from layoutner.cli import config, data, inference, slurm, training
from layoutner.cli.arguments import Parser, add_command, add_settings, option_names, overrides, quiet
from layoutner.cli.ending import report, stay
from layoutner.cli.streams import flush, take_any_character
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
        # Everything is written and all ranks have left. What is skipped is the teardown of the interpreter, in which
        # a thread that gloo or NCCL still runs can abort the process, and so turn a finished run into a failed one.
        flush()
        os._exit(code)
    if code:
        sys.exit(code)


def _without_local_rank(arguments: list[str]) -> list[str]:
    """Launchers put --local_rank=N before the program's own arguments; the environment says the same.

    Behind the command it is somebody else's: `config migrate` reads command lines that hold it.
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
    demo = add_command(commands, "demo", _demo, "synthetic forms through the whole toolkit, without a download")
    add_settings(demo, config=False)
    data.add_commands(commands)
    inference.add_commands(commands)
    config.add_commands(commands)
    slurm.add_commands(commands)

    options, strangers = parser.parse_known_args(arguments)
    if strangers:
        raise SettingsError(_unknown(strangers[0], options.parser, option_names(parser)))
    options.do(options)


def _unknown(argument: str, command: Parser, everywhere: list[str]) -> str:
    """What is wrong with an argument that a command does not take; `everywhere`: the options of all commands."""
    from layoutner.migration.old_script import OPTIONS, TRAIN

    name = argument.partition("=")[0]
    if name.lstrip("-") in OPTIONS[TRAIN]:
        return f"{argument}: an option of {TRAIN}; `layoutner config migrate -- OLD COMMAND` says what became of it"
    if name in everywhere:
        return f"{argument}: `{command.prog}` does not take it; --help lists what it takes"
    own = option_names(command)
    key = name.lstrip("-").rpartition(".")[2]
    same = [one for one in own if one.rpartition(".")[2] == key]
    return f"unknown argument {argument}: {did_you_mean(same[0] if same else name, own)}"


def _demo(options: argparse.Namespace) -> None:
    given = overrides(options)
    settings = load("demo", given)
    quiet()
    from layoutner.demo.run import run_demo

    run_demo(settings, given)
