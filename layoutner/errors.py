"""The exceptions of layoutner for errors that are not bugs, and helpers for their messages."""

import difflib
from collections.abc import Callable, Iterable


class LayoutnerError(Exception):
    """Base class of errors that are not bugs in layoutner. The message names the problem, the value and what to do.

    Every other exception raised by layoutner is a bug, out of memory, an interrupt or an `OSError`. The command line
    prints the message without a traceback and exits with code 2. LayoutnerError itself is raised for several problems
    of different kinds.
    """


class SettingsError(LayoutnerError):
    """A setting, an argument or an environment variable is wrong, or needs something that is not available here.

    Also for files with settings: a recipe, a preset, a DeepSpeed config, an old command line.
    """


class DataError(LayoutnerError):
    """A document, page, image or labels file is wrong, missing or unreadable.

    Also raised if predictions, scores, drawings or the images of a hub dataset cannot be written.
    """


class NoSplitError(DataError):
    """A dataset lacks the requested split but has others."""


class ModelError(LayoutnerError):
    """A pretrained or exported model is missing, damaged, of an unknown kind, or could not be exported."""


class CheckpointError(LayoutnerError):
    """A run folder or a checkpoint in it is missing, damaged, locked by another run, or could not be written.

    Also if it belongs to another run, or to a run with other settings.
    """


class RanksDisagree(LayoutnerError):
    """The ranks of a run see different files, settings or software, or have lost each other."""


class TrainingDiverged(LayoutnerError):
    """The loss or the gradient is not finite, so training stopped."""


class Preempted(LayoutnerError):
    """A signal asked the run to stop. It has saved a checkpoint and should be started again.

    The command line exits with 75.
    """


def raise_gathered(kind: type[LayoutnerError], what: str, problems: list[str], shown: int = 20) -> None:
    """Raise one error that lists all problems, in one line if there is only one. Without problems, do nothing.

    Args:
        kind: the class to raise.
        what: a heading such as "12 problems in /data/funsd".
        problems: one line each.
        shown: maximum number of lines to print; the rest is only counted.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise kind(f"{what}: {problems[0]}")
    lines = [f"  - {problem}" for problem in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  ... and {len(problems) - shown} more")
    raise kind("\n".join([f"{what}:", *lines]))


def require_all(what: str, checks: Iterable[Callable[[], object]]) -> None:
    """Run all checks, and raise one error that lists the problems they raised, as `raise_gathered` does.

    Raises:
        LayoutnerError: a check failed. The class is that of the raised errors if it is the same for all.
    """
    problems: dict[str, type[LayoutnerError]] = {}
    for check in checks:
        try:
            check()
        except LayoutnerError as error:
            problems[str(error).replace("\n", "\n  ")] = type(error)
    kinds = set(problems.values())
    raise_gathered(kinds.pop() if len(kinds) == 1 else LayoutnerError, what, list(problems))


def first_line(error: BaseException) -> str:
    """First line of an exception's message, or its class name if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(name: str, known: list[str]) -> str:
    """ "did you mean 'x'?", or the list of known names if none is similar."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
