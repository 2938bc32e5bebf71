"""A sweep: a file that describes many runs, and the name and settings of each. Does not import torch."""

import hashlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from layoutner.errors import SettingsError, did_you_mean, raise_gathered
from layoutner.files.atomic import write_text
from layoutner.settings.tree import Settings, load

# Settings that a sweep decides, and what to do instead of giving them.
OWNED = {
    "run.output_dir": "every run has a folder of its own below output_dir; leave it out",
    "run.seed": "give the seeds at the top of the file, as in seeds = [1, 2, 3]",
    "run.resume": "it is auto in a sweep, so that an interrupted run goes on; leave it out",
    "run.overwrite": "a sweep trains no finished run again; remove the folder of a run to train it again",
}
# Settings that decide which documents and entities are scored: runs with other values could not be ranked.
SCORED = (
    "data.eval", "data.fold", "data.folds", "data.selection_split", "data.format", "data.labels", "data.scheme",
    "data.ignore_types", "data.group_by", "data.invalid_boxes", "data.bad_pages", "data.test",
)  # fmt: skip
LONGEST_NAME = 100  # characters of a point's name; a seed and an ending follow

Seed = Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)]


def _flatten(tree: Any) -> Any:
    """section -> key -> value, which TOML makes of keys without quotes, as section.key -> value."""
    if not isinstance(tree, dict):
        return tree
    flat: dict[str, Any] = {}
    for section, below in tree.items():
        own = {f"{section}.{key}": value for key, value in below.items()} if isinstance(below, dict) else None
        for key, value in ({section: below} if own is None else own).items():
            if key in flat:
                raise ValueError(f"{key} is given twice")
            flat[key] = value
    return flat


class SweepFile(BaseModel):
    """The file of a sweep, as it is written. Keys of settings are `section.key`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: str | None = None  # recipe or TOML file that every run starts from
    output_dir: Path
    seeds: tuple[Seed, ...] | None = None  # None: that of the settings
    settings: dict[str, dict[str, Any]] = {}  # that all runs share
    grid: dict[str, list[Any]] = {}  # every combination of these values ...
    points: tuple[dict[str, Any], ...] = ({},)  # ... with each of these

    @field_validator("grid", mode="before")
    @classmethod
    def _flat_grid(cls, grid: Any) -> Any:
        return _flatten(grid)

    @field_validator("points", mode="before")
    @classmethod
    def _flat_points(cls, points: Any) -> Any:
        return [_flatten(point) for point in points] if isinstance(points, list) else points

    def problems(self) -> Iterator[str]:
        """What is wrong with the file, apart from the settings of its runs."""
        if self.seeds == ():
            yield "seeds = []: give at least one, or leave it out for the seed of the settings"
        yield from (f"seeds: {seed} is given twice" for seed, times in Counter(self.seeds).items() if times > 1)
        if self.points == ():
            yield "points = []: give at least one, or leave it out"
        yield from (f"[grid] {key} = []: give at least one value" for key, values in self.grid.items() if not values)
        listed = {key for point in self.points for key in point}
        shared = {f"{section}.{key}" for section, values in self.settings.items() for key in values}
        if self.seeds is None:
            shared -= {"run.seed"}
        for place, keys in (("[settings]", shared), ("[grid]", set(self.grid)), ("[[points]]", listed)):
            yield from (f"{place} {key}: {OWNED[key]}" for key in OWNED if key in keys)
            for key in sorted(keys):
                if "." not in key:
                    yield f"{place} {key}: a setting is named section.key, as in optimizer.lr"
        yield from (f"{key} is in [grid] and in [[points]]: give it in one" for key in self.grid if key in listed)

    def values(self) -> Iterator[dict[str, Any]]:
        """The values of each point, without keys that `problems` names."""
        for listed in self.points:
            for combination in product(*self.grid.values()):
                every = {**dict(zip(self.grid, combination, strict=True)), **listed}
                yield {key: value for key, value in every.items() if "." in key and key not in OWNED}


@dataclass(frozen=True)
class Run:
    """A run of a sweep."""

    name: str  # of its files, and in Weights & Biases
    seed: int
    settings: Settings

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.settings.run.output_dir

    @property
    def settings_file(self) -> Path:
        """What `layoutner train --config` is given."""
        return self.folder.with_name(f"{self.name}.toml")

    @property
    def log(self) -> Path:
        """What it has printed."""
        return self.folder.with_name(f"{self.name}.log")

    def write_settings(self) -> None:
        """Write its settings file, if it differs from what is there: jobs may be reading it.

        Raises:
            OSError: it cannot be written.
        """
        text = self.settings.to_toml()
        if not self.settings_file.is_file() or self.settings_file.read_text(encoding="utf-8") != text:
            write_text(self.settings_file, text)


@dataclass(frozen=True)
class Point:
    """Values of the swept settings, with one run for each seed."""

    number: int  # from 1, in the order of the file
    name: str  # "" if nothing is swept
    values: dict[str, Any]  # section.key -> value, as JSON has it
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Sweep:
    """A sweep whose file and settings are valid."""

    folder: Path
    points: tuple[Point, ...]
    labels: dict[str, str]  # section.key -> short name, of the settings that are swept
    grid: tuple[str, ...]  # those of them that the grid has

    @property
    def runs(self) -> list[Run]:
        """All runs, those with the first seed first: so there is soon one score for every point."""
        return [run for runs in zip(*(point.runs for point in self.points), strict=True) for run in runs]

    def numeric_grid(self) -> dict[str, list[float]]:
        """Settings of the grid that have at least two values, all of them numbers -> these values, sorted."""
        found: dict[str, list[float]] = {}
        for key in self.grid:
            values = [point.values[key] for point in self.points]
            if all(type(value) in (int, float) for value in values) and len(set(values)) > 1:
                found[key] = sorted(set(values))
        return found


def read_sweep(path: Path) -> Sweep:
    """Read the file of a sweep and validate the settings of every run.

    Raises:
        SettingsError: every problem at once.
    """
    file = _read(path)
    problems = dict.fromkeys(file.problems())
    given_keys = {*file.grid, *(key for point in file.points for key in point)}
    for key in (key for key in SCORED if key in given_keys):
        problems[
            f"{key}: it decides what is scored, so runs with other values of it cannot be ranked; leave it out"
        ] = None
    keys = list(dict.fromkeys([*file.grid, *(key for point in file.points for key in point)]))
    last = Counter(key.rpartition(".")[2] for key in keys)
    labels = {key: key if last[key.rpartition(".")[2]] > 1 else key.rpartition(".")[2] for key in keys}
    points: list[Point] = []
    seen: dict[str, str] = {}
    for number, given in enumerate(file.values(), 1):
        try:
            settings = _load(file, given)
            _require_comparable(settings)
        except SettingsError as error:
            problems[str(error).replace("\n", "\n  ")] = None
            continue
        tree = settings.model_dump(mode="json")
        values = {key: tree[key.partition(".")[0]][key.partition(".")[2]] for key in given}
        name = name_of({labels[key]: value for key, value in values.items()})
        if (settings_text := json.dumps(tree)) in seen:
            same = " and ".join(dict.fromkeys((seen[settings_text], name or "the settings")))
            problems[f"two points are the same: {same}"] = None
        seen[settings_text] = name or "the settings"
        seeds = (settings.run.seed,) if file.seeds is None else file.seeds
        runs = tuple(_name_run(settings, file.output_dir, name, seed) for seed in seeds)
        points.append(Point(number, name, values, runs))
    raise_gathered(SettingsError, f"{path}: this sweep cannot start", list(problems))
    return Sweep(file.output_dir, tuple(points), labels, tuple(file.grid))


def _read(path: Path) -> SweepFile:
    file: SweepFile | None = None
    problems: list[str] = []
    try:
        file = SweepFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except ValidationError as error:
        for one in error.errors():
            where = ".".join(map(str, one["loc"]))
            if one["type"] == "extra_forbidden":
                problems.append(f"{where}: unknown; {did_you_mean(where, list(SweepFile.model_fields))}")
            else:
                message = one["msg"].removeprefix("Value error, ")
                problems.append(f"{where}: {message[:1].lower()}{message[1:]}")
    except (OSError, ValueError) as error:
        problems.append(f"cannot be read: {error}")
    raise_gathered(SettingsError, f"{path}: no file of a sweep", problems)
    assert file is not None
    return file


def _load(file: SweepFile, values: dict[str, Any]) -> Settings:
    """The settings of a point, with the seed and the names of the base."""
    tree: dict[str, dict[str, Any]] = {"run": {"resume": "auto", "overwrite": False}}
    for name, value in values.items():
        section, _, key = name.partition(".")
        tree.setdefault(section, {})[key] = value
    shared = {
        section: {key: value for key, value in values.items() if f"{section}.{key}" not in OWNED or key == "seed"}
        for section, values in file.settings.items()
    }
    return load(file.config, tree, "the sweep", shared)


def _require_comparable(settings: Settings) -> None:
    """Refuse a run that could not be ranked among others."""
    data = settings.data
    if data.test is not None:
        # There would be one test score per run, and picking the best would be a selection on the test pages.
        raise SettingsError(
            f"data.test = {data.test}: a sweep ranks its runs by their score on data.eval; leave it out, and score the "
            "test documents once, with `layoutner evaluate` and the best run"
        )
    if data.eval is None and data.fold is None:
        raise SettingsError("data.eval is missing: the runs are ranked by their score on it; such as data.eval = 0.1")


def name_of(values: dict[str, Any]) -> str:
    """The name of a point, such as "global_batch_size=16,lr=5e-05".

    What a file name should not hold becomes "-", and long names are cut. Such a name ends with a digest of its values.

    Args:
        values: short name of a setting -> its value, as JSON has it.
    """
    plain = ",".join(f"{key}={_text(value)}" for key, value in values.items())
    name = re.sub(r"[^\w.+=,-]", "-", plain, flags=re.ASCII)
    if name == plain and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(plain.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - len(digest) - 1]}-{digest}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _name_run(settings: Settings, folder: Path, point: str, seed: int) -> Run:
    """A run of a point: its settings, with a folder and names of its own."""
    name = f"{point},seed={seed}" if point else f"seed={seed}"
    board, wandb = settings.tensorboard.dir, settings.wandb
    shown = {
        "name": f"{wandb.name}-{name}" if wandb.name else name,
        "group": wandb.group or folder.resolve().name,
        "job_type": wandb.job_type or "sweep",
    }
    own = {
        "run": settings.run.model_copy(update={"output_dir": folder / name, "seed": seed}),
        "wandb": wandb.model_copy(update=shown),
        "tensorboard": settings.tensorboard.model_copy(update={"dir": board and board / name}),
    }
    return Run(name, seed, settings.model_copy(update=own))
