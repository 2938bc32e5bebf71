"""The schema of one DeepSpeed release: data generated from its code (data/), joined with written notes (notes/).

The data contain keys, types, defaults, bounds and allowed values. A note contains the meaning of a key, its unit, and
what a script cannot read from the code. If both give a value, that of the note is used.
"""

import json
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from layoutner.deepspeed_config.key import ANY, OBJECT, Block, Key, Notes
from layoutner.deepspeed_config.notes import NOTES, optimizers, schedulers
from layoutner.deepspeed_config.notes.removed import REMOVED

DATA = Path(__file__).parent / "data"
Entries = dict[str, dict[str, Any]]
_UNSET = {field.name: field.default for field in fields(Key)}


@dataclass(frozen=True)
class Schema:
    """Every key that one release of DeepSpeed reads from its JSON config."""

    release: str
    top: Block
    optimizers: dict[str, Block]
    """Type in lower case -> keys of `optimizer.params`."""
    deepspeed_types: dict[str, str]
    """Optimizers that DeepSpeed builds itself: lower case -> usual spelling. DeepSpeed accepts upper and lower case."""
    torch_types: dict[str, str]
    """Optimizers of torch.optim: lower case -> the only spelling that works."""
    schedulers: dict[str, Block]
    """Type -> keys of `scheduler.params`."""
    deepspeed_schedulers: tuple[str, ...]
    """DeepSpeed's own schedules."""
    unknown_release: str = ""
    """Why this is not the schema of the installed release; "" if it is."""


def known_releases() -> list[str]:
    """The DeepSpeed releases that have a file in data/, oldest first."""
    return sorted((file.stem for file in DATA.glob("*.json") if file.stem[0].isdigit()), key=version_key)


def version_key(release: str) -> tuple[int, ...]:
    """Sort key of a release."""
    return tuple(int(part) for part in release.split("."))


def load_data(release: str) -> dict[str, Any]:
    """The generated data of a release. The file of an older release contains only what differs from the newest."""
    found: dict[str, Any] = json.loads((DATA / f"{release}.json").read_text(encoding="utf-8"))
    if "like" not in found:
        return found
    whole = load_data(found.pop("like"))
    for section, entries in found.items():
        joined = whole[section] | entries
        whole[section] = {name: entry for name, entry in joined.items() if entry is not None}
    return whole


@cache
def installed_schema() -> Schema:
    """The schema of the installed DeepSpeed, without importing it; if unknown, that of the newest known release."""
    known = known_releases()
    try:
        release = metadata.version("deepspeed").partition("+")[0]  # a build from source adds "+unknown" or a commit
    except metadata.PackageNotFoundError:
        return replace(load_schema(known[-1]), unknown_release="DeepSpeed is not installed")
    if release in known:
        return load_schema(release)
    return replace(
        load_schema(known[-1]), unknown_release=f"the installed DeepSpeed {release} is unknown to this check"
    )


def load_schema(release: str) -> Schema:
    """The schema of a known release."""
    found = load_data(release)
    torch = json.loads((DATA / "torch.json").read_text(encoding="utf-8"))
    own: dict[str, Entries] = found["optimizers"]
    built_by_torch = {kind: torch["optimizers"][name] for kind, name in found["built_by_torch"].items()}
    parameters = {kind: built_by_torch.get(kind, {}) | entries for kind, entries in own.items()}
    torch_types = {name.lower(): name for name in torch["optimizers"] if name.lower() not in own}
    parameters |= {kind: torch["optimizers"][name] for kind, name in torch_types.items()}
    schedules = {name: entries for name, entries in torch["schedulers"].items() if name not in schedulers.NOT_FROM_JSON}
    schedules |= found["schedulers"]
    return Schema(
        release=release,
        top=_Joined(found["keys"]).block(""),
        optimizers={
            kind: _parameters(
                entries,
                optimizers.PARAMETERS | optimizers.OPTIMIZERS.get(kind, {}),
                optimizers.MEANINGS.get(kind, ""),
                strict=kind != "muon",
            )
            for kind, entries in parameters.items()
        },
        deepspeed_types={kind: name for kind, name in optimizers.SPELLINGS.items() if kind in own},
        torch_types=torch_types,
        schedulers={
            name: _parameters(
                entries, schedulers.PARAMETERS | schedulers.SCHEDULERS.get(name, {}), schedulers.MEANINGS.get(name, "")
            )
            for name, entries in schedules.items()
        },
        deepspeed_schedulers=tuple(found["schedulers"]),
    )


class _Joined:
    """Generated keys by dotted path, joined with their notes."""

    def __init__(self, keys: Entries) -> None:
        self.entries: dict[str, Entries] = {}  # dotted path of an object -> its keys
        for path, entry in keys.items():
            above, _, name = path.rpartition(".")
            if not entry.get("rejected"):
                self.entries.setdefault(above, {})[name] = entry

    def block(self, path: str, model: bool = False) -> Block:
        """An object of keys. If no data were generated for it, all its keys come from the notes."""
        notes = NOTES[path]
        entries = self.entries.get(path) or {name: {} for name in notes if name != "*"}
        keys: dict[str, Key] = {}
        for name in _in_order(entries, notes):
            at = f"{path}.{name}".lstrip(".")
            key = self.key(at, notes.get(name) or _removed(at), entries[name])
            keys |= {entries[name].get("alias", name): key, name: key}
        other = notes.get("*")
        others = self.key(f"{path}.*", other, {}) if other is not None else None
        return Block(keys, strict=model, open="*" in notes, drops_auto=model, others=others)

    def key(self, path: str, note: str | Key, entry: dict[str, Any]) -> Key:
        """A key, with the block of its object or of its elements."""
        key = _key(note, entry)
        if path in NOTES:
            block = self.block(path, model=entry.get("model", False))
            key = replace(key, types=key.types or OBJECT, block=block)
        if f"{path}[]" in NOTES and key.items is not None:
            key = replace(key, items=self.key(f"{path}[]", key.items, {}))
        return key


def _key(note: str | Key, entry: dict[str, Any]) -> Key:
    """A key from its note and, for fields that the note leaves out, from the generated data."""
    note = Key(note) if isinstance(note, str) else note
    values = {name: value for name, value in entry.items() if name in _UNSET}
    values |= {name: tuple(values[name]) for name in ("types", "choices") if name in values}
    values |= {name: value for name, value in vars(note).items() if value != _UNSET[name]}
    if note.items is not None or "items" in entry:
        values["items"] = _key(note.items or "", entry.get("items", {}))
    return Key(**values)


def _parameters(entries: Entries, notes: Notes, meaning: str, strict: bool = True) -> Block:
    """The keys of `params` of an optimizer or scheduler."""
    keys = {
        name: _key(notes.get(name) or _removed(f"optimizer.params.{name}"), entries[name])
        for name in _in_order(entries, notes)
    }
    return Block(keys, strict=strict, meaning=meaning)


def _in_order(entries: Entries, notes: Notes) -> list[str]:
    """Names in the order of the notes, as messages show them. Names without a note (of older releases) come last."""
    return [*(name for name in notes if name in entries), *(name for name in entries if name not in notes)]


def _removed(path: str) -> Key:
    """The note on a key that a later release has removed."""
    return Key(f"Removed in DeepSpeed {REMOVED[path][0]}.", types=ANY)
