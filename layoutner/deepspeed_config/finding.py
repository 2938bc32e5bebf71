"""A finding about a config file, and the formats in which findings are printed."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclass(frozen=True)
class Finding:
    """An error, a warning or a note about a config file."""

    severity: str  # ERROR, WARNING or NOTE
    path: str  # dotted, as in zero_optimization.stage; "" for the whole file
    line: int
    column: int
    message: str
    value: Any
    advice: str


def as_text(file: str, findings: Sequence[Finding]) -> str:
    """For people: one line per finding with its advice below it, and the number of findings."""
    lines = []
    for found in findings:
        value = "" if found.value is None or isinstance(found.value, dict | list) else f" = {json.dumps(found.value)}"
        lines.append(f"{file}:{found.line}:{found.column}: {found.severity}: {found.path}{value}: {found.message}")
        lines.append(f"    {found.advice}")
    counts = [f"{sum(f.severity == kind for f in findings)} {kind}(s)" for kind in (ERROR, WARNING, NOTE)]
    return "\n".join([*lines, f"{file}: {', '.join(counts)}"])


def as_json(file: str, findings: Sequence[Finding]) -> str:
    """For programs: an object with the file and its findings."""
    return json.dumps({"file": file, "findings": [asdict(found) for found in findings]}, indent=2)


def as_github(file: str, findings: Sequence[Finding]) -> str:
    """For GitHub Actions: workflow commands, which are shown next to the line."""
    kinds = {ERROR: "error", WARNING: "warning", NOTE: "notice"}
    return "\n".join(
        f"::{kinds[found.severity]} file={_escaped(file, ',:')},line={found.line},col={found.column},"
        f"title={_escaped(found.path or 'config', ',:')}::{_escaped(f'{found.message}. {found.advice}', '')}"
        for found in findings
    )


def _escaped(text: str, more: str) -> str:
    """Escape a text for a workflow command: %, line ends and the characters of `more`."""
    for character in f"%\r\n{more}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text


FORMATS = {"text": as_text, "json": as_json, "github": as_github}
