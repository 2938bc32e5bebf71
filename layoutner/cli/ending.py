"""How a command ends: the message of what went wrong, and the exit code, on one rank or on many."""

import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from layoutner import __version__
from layoutner.cli.streams import flush
from layoutner.errors import LayoutnerError, Preempted, first_line

if TYPE_CHECKING:
    from layoutner.distributed.ranks import Ranks

# Exit codes; 128 + SIGINT and 128 + SIGPIPE, as shells have it. 1 is left to the commands that check something: they
# have found errors. So a fault of the program itself, which Python would end with 1, is EX_SOFTWARE of sysexits.h.
ERROR, FAULT, INTERRUPTED, UNREAD = 2, 70, 130, 141
AGAIN = 75  # the run has saved and wants to be started again; EX_TEMPFAIL of sysexits.h

# As a GPU's allocator, a CPU's allocator and C++ say it.
OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|bad_alloc")

# A rank that fails before the ranks have joined stays as long, so that rank 0, which fails alike, can say the whole
# message: launchers end the other ranks when one has ended. They do not wait for it, as rank 0 ends at once.
STAY_S = 10.0


def report(error: BaseException, joined: bool = False) -> int:
    """Print what went wrong, in one line on ranks other than 0; the exit code.

    Args:
        joined: whether the ranks have joined. From then on they fail alike, and rank 0 says the details.
    """
    rank = int(os.environ.get("RANK", "0"))
    who = f"layoutner: rank {rank}: " if rank else "layoutner: "
    code = ERROR
    if isinstance(error, Preempted):
        # Rank 0, the last to leave, says so for all: a launcher ends the others at the first code that is not 0.
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
        # Whoever read standard output has seen enough, as `head` does; what is left in its buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = UNREAD
    elif isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))):
        advice = "a smaller batch.micro_batch_size (predict, evaluate: --batch) needs less, and computes the same"
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
    # The line and its end at once, so that the lines of two ranks do not run into each other.
    print(f"{text}\n", end="", file=sys.stderr)


@contextmanager
def ending_together(ranks: "Ranks") -> Iterator["Ranks"]:
    """The ranks, joined. What goes wrong in here is reported, and no rank ends before rank 0 has reported it.

    Raises:
        SystemExit: something went wrong.
        Preempted: as raised in here.
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
    """After an error of a rank that has not joined the others: see `STAY_S`."""
    if os.environ.get("RANK", "0") != "0" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        time.sleep(STAY_S)
