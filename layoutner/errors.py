"""The exceptions that layoutner raises for what is not a bug of its own, and how their messages are made."""

import difflib
from collections.abc import Callable, Iterable


class LayoutnerError(Exception):
    """Something went wrong that is no bug of layoutner. The message says what, the value, and what to do.

    Every other exception that leaves layoutner is a bug, a full memory, an interrupt, or an `OSError` of the machine.
    The command line prints the message without a traceback and exits with code 2. Raised itself where problems of
    several kinds are told together.
    """


class SettingsError(LayoutnerError):
    """A setting, an argument or an environment variable is wrong, or asks for what this machine or installation lacks.

    So is a file of settings: a recipe, a preset, a DeepSpeed config, an old command line.
    """


class DataError(LayoutnerError):
    """A document, page, image or file of labels is wrong, missing or unreadable; or what is made of it has no place.

    What is made of documents: predictions, scores, drawings, and the images of a dataset of the hub.
    """


class NoSplitError(DataError):
    """A data set does not hold the split that was asked for; it holds others."""


class ModelError(LayoutnerError):
    """A pretrained or exported model is missing, damaged, of an unknown kind, or could not be exported."""


class CheckpointError(LayoutnerError):
    """A run folder or a checkpoint in it is missing, damaged, held by another run, or could not be written.

    So is one that belongs to another run, or to one of other settings.
    """


class RanksDisagree(LayoutnerError):
    """The ranks of a run see different files, settings or software, or have lost each other."""


class TrainingDiverged(LayoutnerError):
    """The loss or the gradient is no finite number, and training stopped before it spoilt the weights."""


class Preempted(LayoutnerError):
    """A signal asked the run to end; it has saved where it stands, and wants to be started again.

    The command line exits with 75.
    """


def raise_gathered(kind: type[LayoutnerError], what: str, problems: list[str], shown: int = 20) -> None:
    """Raise one error that lists every problem of one input, in one line if there is one; nothing if there is none.

    Args:
        kind: the class that is raised.
        what: a heading such as "12 problems in /data/funsd".
        problems: one line each.
        shown: how many lines are printed; the rest is counted.
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
    """Make all checks, and raise one error that lists what each of them has raised, as `raise_gathered` does.

    Raises:
        LayoutnerError: of the class that was raised, if all checks that failed raised the same one.
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
    """What an exception of a library says, in one line, for a message of our own."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(name: str, known: list[str]) -> str:
    """ " - did you mean 'x'?" or, when nothing is near, the list of the known names."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
