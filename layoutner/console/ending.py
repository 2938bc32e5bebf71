"""How a command ends: error message and exit code, on one rank or several."""

import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from layoutner import __version__
from layoutner.console.streams import flush
from layoutner.errors import LayoutnerError, Preempted, first_line
from layoutner.files.text import printable

if TYPE_CHECKING:
    from layoutner.distributed.ranks import Ranks

# Exit codes. 130 and 141 are 128 + SIGINT and 128 + SIGPIPE, as in shells. 1 means that a check command has found
# errors, so a bug in the program (which Python would end with 1) exits with EX_SOFTWARE of sysexits.h, 70.
ERROR, FAULT, INTERRUPTED, UNREAD = 2, 70, 130, 141
AGAIN = 75  # the run has saved and wants to be started again; EX_TEMPFAIL of sysexits.h

# Messages of the GPU allocator, the CPU allocator and C++.
OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|bad_alloc")

# If a rank other than 0 fails before the ranks have joined, it waits this long before it exits. Launchers kill the
# other ranks as soon as one exits, and rank 0, which fails in the same way, must print the whole message first. The
# job does not get slower: rank 0 exits at once, and the launcher then ends the waiting ranks.
STAY_S = 10.0


def report(error: BaseException, joined: bool = False) -> int:
    """Print what went wrong and return the exit code. Ranks other than 0 print one line.

    Args:
        joined: whether the ranks have joined. From then on they fail alike, and rank 0 prints the details.
    """
    rank = int(os.environ.get("RANK", "0"))
    who = f"layoutner: rank {rank}: " if rank else "layoutner: "
    code = ERROR
    if isinstance(error, Preempted):
        # Only rank 0, the last to leave, exits with a code other than 0: at the first one, launchers kill the others.
        if rank:
            return 0
        _say(f"{who}{error}")
        code = AGAIN
    elif isinstance(error, LayoutnerError):
        text = str(error)
        if rank:
            text = first_line(error) if joined else " ".join(text.split())
        _say(f"{who}error: {text}")
    elif isinstance(error, KeyboardInterrupt):
        _say(f"{who}interrupted")
        code = INTERRUPTED
    elif isinstance(error, BrokenPipeError):
        # The reader closed the pipe, as `head` does; discard the rest of the buffer.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = UNREAD
    elif isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))):
        advice = "reduce batch.micro_batch_size (predict, evaluate: --batch): less memory, same results"
        _say(f"{who}error: {first_line(error)} - {advice}")
    elif isinstance(error, OSError):
        _say(f"{who}error: {error}")
    else:
        traceback.print_exception(error)
        _say(f"{who}this is a bug of layoutner {__version__}: please report it with the lines above")
        code = FAULT
    with suppress(OSError):  # nobody may read any more
        flush()
    return code


def _say(text: str) -> None:
    # Write the line and its newline in one call, so that lines of two ranks do not mix.
    print(f"{printable(text)}\n", end="", file=sys.stderr)


@contextmanager
def ending_together(ranks: "Ranks") -> Iterator["Ranks"]:
    """Context of the joined ranks: report an exception raised inside, and exit only after rank 0 has reported it.

    Raises:
        SystemExit: something went wrong.
        Preempted: raised inside, passed on.
    """
    try:
        with ranks:
            yield ranks
    except (SystemExit, Preempted):
        raise
    except BaseException as error:
        code = report(error, joined=True)
        ranks.part()
        sys.exit(code)


def stay() -> None:
    """Wait before exit, after an error on a rank that has not joined the others. See `STAY_S`."""
    if os.environ.get("RANK", "0") != "0" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        time.sleep(STAY_S)
