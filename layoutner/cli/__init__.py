"""The command line: reads arguments, builds Settings, hands over. Heavy imports wait until a command needs them."""

import argparse
import os
import re
import sys
import traceback
from collections.abc import Sequence

from layoutner import __version__
from layoutner.cli import config, data, inference, training
from layoutner.cli.arguments import Parser, add_command, add_settings, option_names, overrides, quiet
from layoutner.cli.streams import flush, take_any_character
from layoutner.config.errors import Preempted, UserError, did_you_mean, first_line
from layoutner.config.old_script import OPTIONS, TRAIN
from layoutner.config.settings import load

# Exit codes; 128 + SIGINT and 128 + SIGPIPE, as shells have it. 1 is left to the commands that check something: they
# have found errors. So a fault of the program itself, which Python would end with 1, is EX_SOFTWARE of sysexits.h.
ERROR, FAULT, INTERRUPTED, UNREAD = 2, 70, 130, 141
AGAIN = 75  # the run has saved and wants to be started again; EX_TEMPFAIL of sysexits.h

# As a GPU's allocator, a CPU's allocator and C++ say it.
OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|bad_alloc")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `layoutner`, `python -m layoutner` and the launchers. Exits with 0, 1, 2, 70, 75, 130 or 141."""
    take_any_character()
    rank = int(os.environ.get("RANK", "0"))
    who = f"layoutner: rank {rank}: " if rank else "layoutner: "
    code = 0
    try:
        _run(_without_local_rank(sys.argv[1:] if arguments is None else list(arguments)))
    except UserError as error:
        # Once they have joined, ranks fail alike, and the others say it in one line.
        text = str(error) if rank == 0 or "torch" not in sys.modules else first_line(error)
        print(f"{who}error: {text}", file=sys.stderr)
        sys.exit(ERROR)
    except KeyboardInterrupt:
        print(f"{who}interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Preempted as stopped:
        if rank == 0:
            print(f"{who}{stopped}", file=sys.stderr)
            # Rank 0, the last to leave, says so for all: a launcher ends the others at the first code that is not 0.
            code = AGAIN
    except BrokenPipeError:
        # Whoever read standard output has seen enough, as `head` does; what is left in its buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(UNREAD)
    except OSError as error:
        print(f"{who}error: {error}", file=sys.stderr)
        sys.exit(ERROR)
    except Exception as error:
        if not isinstance(error, MemoryError) and not (
            isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))
        ):
            traceback.print_exc()
            sys.exit(FAULT)
        advice = "a smaller batch.micro_windows (predict, evaluate: --batch) needs less, and computes the same"
        print(f"{who}error: {first_line(error)} - {advice}", file=sys.stderr)
        sys.exit(ERROR)
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

    options, strangers = parser.parse_known_args(arguments)
    if strangers:
        raise UserError(_unknown(strangers[0], options.parser, option_names(parser)))
    options.do(options)


def _unknown(argument: str, command: Parser, everywhere: list[str]) -> str:
    """What is wrong with an argument that a command does not take; `everywhere`: the options of all commands."""
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
