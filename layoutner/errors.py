"""What the command line turns into a message and an exit code."""

import difflib
from collections.abc import Callable, Iterable


class UserError(ValueError):
    """Something the user gave is wrong. The message says what, the value, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class NoSplitError(UserError):
    """A data set does not hold the split that was asked for; it holds others."""


class Preempted(Exception):
    """A signal asked the run to end; it has saved where it stands, and wants to be started again.

    The command line exits with 75.
    """


def raise_gathered(what: str, problems: list[str], shown: int = 20) -> None:
    """Raise one UserError that lists every problem of one input, in one line where it is one; nothing where it is none.

    Args:
        what: a heading such as "12 problems in /data/funsd".
        problems: one line each.
        shown: how many lines are printed; the rest is counted.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise UserError(f"{what}: {problems[0]}")
    lines = [f"  - {problem}" for problem in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  ... and {len(problems) - shown} more")
    raise UserError("\n".join([f"{what}:", *lines]))


def require_all(what: str, checks: Iterable[Callable[[], object]]) -> None:
    """Make all checks, and raise one UserError that lists what each of them has raised, as `raise_gathered` does."""
    problems = []
    for check in checks:
        try:
            check()
        except UserError as error:
            problems.append(str(error).replace("\n", "\n  "))
    raise_gathered(what, list(dict.fromkeys(problems)))


def first_line(error: BaseException) -> str:
    """What an exception of a library says, in one line, for a message of our own."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(name: str, known: list[str]) -> str:
    """ " - did you mean 'x'?" or, when nothing is near, the list of the known names."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
