"""What the pages of the documentation show: blocks of code, commands, headings and links."""

import re
import shlex
from typing import NamedTuple

from tests.builders.processes import ROOT

PAGES = (ROOT / "README.md", ROOT / "slurm" / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
NAMES = {path: str(path.relative_to(ROOT)) for path in PAGES}


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    content: str


class Command(NamedTuple):
    """A command of a page, read as a call of layoutner."""

    arguments: list[str]  # of layoutner
    ranks: int  # that a launcher on this machine starts


def blocks(name: str) -> list[Block]:
    """All blocks of a page, by its path in the repository."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]


def block(name: str, language: str, start: str = "") -> str:
    """The first block of a page in this language that starts so."""
    return next(content for its, content in blocks(name) if its == language and content.startswith(start))


def commands(name: str) -> list[str]:
    """The commands of all bash blocks of a page, each as one line."""
    return [line for language, content in blocks(name) if language == "bash" for line in as_lines(content)]


def as_lines(content: str) -> list[str]:
    """The commands of a bash block, each as one line: a backslash at the end of a line continues it."""
    return [line for line in re.sub(r" *\\\n *", " ", content).splitlines() if line]


def prose(name: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def as_layoutner(command: str) -> Command | None:
    """A command that starts layoutner, in whatever way; None for any other."""
    line = re.sub(r"( [<>] \S+)+$", "", command)
    words = shlex.split(line)
    for pattern, ranks in (
        (r"layoutner ", 1),
        (r"deepspeed --num_gpus (\d+) --module layoutner ", 0),
        (r"torchrun --nproc-per-node (\d+) -m layoutner ", 0),
    ):
        if found := re.match(pattern, line):
            return Command(shlex.split(line[found.end() :]), ranks or int(found[1]))
    if words[0] == "sbatch":
        return Command(["train", *words[words.index("slurm/train.sh") + 1 :]], 1)
    if words[0] == "slurm/sweep.sh":
        return Command(["sweep", words[1], "--slurm"], 1)
    return None
