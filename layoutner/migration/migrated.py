"""The result of migrating an old command line: settings, new commands, and a report on each option."""

import re
import shlex
from dataclasses import dataclass, field
from typing import NamedTuple

from layoutner.migration.importing import to_toml
from layoutner.migration.old_script import Command


class Outcome(NamedTuple):
    """What became of one option."""

    # If the option was given: "kept", "replaced", "dropped"; if not: "default" (the settings state it), "not given".
    what: str
    option: str  # with its value
    became: str = ""  # e.g. "optimizer.lr = 3e-05", "`layoutner train`"
    why: str = ""

    def __str__(self) -> str:
        became = f" -> {self.became}" if self.became else ""
        return f"{self.what:10}{self.option}{became}{f': {self.why}' if self.why else ''}"


@dataclass
class Migrated:
    """What an old command line was turned into."""

    made_from: list[str]  # the old commands, without secrets
    commands: list[str] = field(default_factory=list)  # what to run instead, with the settings in settings.toml
    remarks: list[str] = field(default_factory=list)  # on the commands
    settings: dict[str, dict[str, object]] = field(default_factory=dict)  # section -> key -> value
    report: list[Outcome] = field(default_factory=list)  # in the order of OPTIONS
    notes: list[str] = field(default_factory=list)  # numbers of windows and steps, and what was found in the folders

    def toml(self) -> str:
        """The settings as TOML. Comments at the top show the old commands and the new ones."""
        lines = ["Made by `layoutner config migrate` from", *(f"  {line}" for line in self.made_from)]
        lines.append("Save it as settings.toml, then run" if self.settings else "No settings are needed. Run")
        lines += [*(f"  {command}" for command in self.commands), *self.remarks]
        # TOML comments must not contain control characters.
        clean = [re.sub(r"[\x00-\x1f\x7f]", " ", line) for line in lines]
        return "".join(f"# {line}\n" for line in clean) + to_toml(self.settings)


def outcome_of(old: Command, option: str, kept: bool, became: str, why: str, instead: str = "") -> Outcome:
    """Make an option's line of the report.

    Args:
        old: the command.
        option: name of the option.
        kept: whether it became a setting.
        became: what replaces it; "" if nothing does.
        why: the reason.
        instead: for an option that was not given: what it would become; "" if it would be dropped because of `why`.
    """
    value = old.values[option]
    if option in old.given:
        what = "kept" if kept else "replaced" if became else "dropped"
        return Outcome(what, f"--{option}" if value is True else f"--{option} {shlex.quote(str(value))}", became, why)
    if became:
        shown = "(off)" if value is False else "(none)" if value == "" else value
        return Outcome("default", f"--{option} {shown}", became, why)
    return Outcome("not given", f"--{option}", why=f"if given, {instead or f'dropped: {why}'}")
