"""What became of an old command line: of each option, and of the whole."""

import re
import shlex
from dataclasses import dataclass, field
from typing import NamedTuple

from layoutner.migration.importing import to_toml
from layoutner.migration.old_script import Command


class Fate(NamedTuple):
    """What became of one option."""

    what: str  # of a given option "kept", "replaced" or "dropped"; of another "default" where that is said, "not given"
    option: str  # with its value
    became: str = ""  # e.g. "optimizer.lr = 3e-05", "`layoutner train`"
    why: str = ""

    def __str__(self) -> str:
        became = f" -> {self.became}" if self.became else ""
        return f"{self.what:10}{self.option}{became}{f': {self.why}' if self.why else ''}"


@dataclass
class Migrated:
    """What became of a command line."""

    made_from: list[str]
    commands: list[str] = field(default_factory=list)  # that do now what it did, with the settings in settings.toml
    remarks: list[str] = field(default_factory=list)  # on the commands
    settings: dict[str, dict[str, object]] = field(default_factory=dict)  # section -> key -> value
    report: list[Fate] = field(default_factory=list)  # in the order of OPTIONS
    notes: list[str] = field(default_factory=list)  # the arithmetic, and what was found in the folders

    def toml(self) -> str:
        """The settings, under comments that say where they come from and how they are used."""
        lines = ["Made by `layoutner config migrate` from", *(f"  {line}" for line in self.made_from)]
        lines.append("Saved as settings.toml, it is used so:" if self.settings else "No settings: these do it now.")
        lines += [*(f"  {command}" for command in self.commands), *self.remarks]
        # A comment of TOML holds no control characters.
        clean = [re.sub(r"[\x00-\x1f\x7f]", " ", line) for line in lines]
        return "".join(f"# {line}\n" for line in clean) + to_toml(self.settings)


def fate_of(old: Command, option: str, kept: bool, became: str, why: str, instead: str = "") -> Fate:
    """What became of an option; where it was not given and nothing had to be said for it, `instead` or `why`."""
    value = old.values[option]
    if option in old.given:
        what = "kept" if kept else "replaced" if became else "dropped"
        return Fate(what, f"--{option}" if value is True else f"--{option} {shlex.quote(str(value))}", became, why)
    if became:
        shown = "(off)" if value is False else "(none)" if value == "" else value
        return Fate("default", f"--{option} {shown}", became, why)
    return Fate("not given", f"--{option}", why=f"else {instead or f'dropped, because {why}'}")
