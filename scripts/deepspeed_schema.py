"""Writes what the code of a DeepSpeed release says of its config: keys, JSON types, defaults, bounds, allowed values.

    python -m pip install --no-deps --target build/deepspeed deepspeed==0.19.8
    PYTHONPATH=build/deepspeed:. python scripts/deepspeed_schema.py

writes layoutner/deepspeed_config/data/0.19.8.json, and the older releases anew as what differs from the newest. Three
sources: pydantic models and dataclasses are asked for their fields; the functions that read a dict are given one that
remembers what was asked for; optimizers and schedules are asked for the parameters of their constructors. A type that
the code does not show (of a key whose default is None) is left out: layoutner/deepspeed_config/notes/ gives it.
"""

import collections.abc
import copy
import dataclasses
import enum
import importlib
import inspect
import json
import re
import types
from collections.abc import KeysView
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import deepspeed
import torch
from deepspeed.module_inject.auto_ep_config import AutoEPConfig
from deepspeed.module_inject.auto_ep_presets.registry import PRESET_MODELS
from deepspeed.module_inject.autotp_config import AutoTPConfig, TPLayerSpec
from deepspeed.runtime import config as ds_config
from deepspeed.runtime import constants, lr_schedules
from deepspeed.runtime.config_utils import DeepSpeedConfigModel
from deepspeed.runtime.model_checkpointing.config import VALID_VALUES

from layoutner.deepspeed_config.notes import NOTES
from layoutner.deepspeed_config.notes.removed import REMOVED
from layoutner.deepspeed_config.schema import DATA, known_releases, load_data, version_key

HOME = Path(deepspeed.__file__).parent
# What is known of a key: fields of `layoutner.deepspeed_config.key.Key`; "alias", its second name; "model", whether it
# holds the fields of a pydantic model, which rejects unknown keys; "rejected", whether DeepSpeed refuses it by name.
Entry = dict[str, Any]
Entries = dict[str, Entry]  # by dotted path

BARE = ds_config.DeepSpeedConfig({"train_batch_size": 1, "comms_logger": {}, "weight_quantization": {}})
MODELS: dict[str, Any] = {
    "zero_optimization": BARE.zero_config,
    "fp16": BARE.float16_config,
    "bf16": BARE.bfloat16_config,
    "bfloat16": BARE.bfloat16_config,
    "comms_logger": BARE.comms_config.comms_logger,
    "compile": BARE.compile_config,
    "hybrid_engine": BARE.hybrid_engine,
    "tensor_parallel": BARE.tensor_parallel_config,
    "weight_quantization": BARE.weight_quantization_config,
    "timers.throughput": BARE.timers_config,
    **{name: getattr(BARE.monitor_config, name) for name in type(BARE.monitor_config).model_fields},
}
DATACLASSES = {
    "expert_parallel": AutoEPConfig,
    "tensor_parallel.partition_config": AutoTPConfig,
    "tensor_parallel.partition_config.layer_specs[]": TPLayerSpec,
}
# Blocks that functions read as a dict, and what must stand in one for every key of it to be asked for.
READ: dict[str, Entry] = {
    "": {"train_micro_batch_size_per_gpu": 1, "zero_optimization": True, "sequence_parallel_size": 1},
    "optimizer": {"type": "Adam", "params": {}},
    "scheduler": {"type": "WarmupLR", "params": {}},
    "torch_autocast": {"dtype": "bf16", "lower_precision_safe_modules": []},
    "data_types": {},
    "activation_checkpointing": {},
    "aio": {},
    "checkpoint": {},
    "checkpoint.writer": {},
    "checkpoint.parallel_write": {},
    "timers": {"throughput": {}},
    "flops_profiler": {},
    "autotuning": {},
    "autotuning.model_info": {},
    "data_efficiency": {},
    "data_efficiency.data_sampling": {},
    "data_efficiency.data_sampling.dynamic_batching": {"enabled": True, "max_tokens": 1},
    "data_efficiency.data_routing": {},
}
# Blocks whose keys DeepSpeed's code shows in no such form.
BY_HAND = ("data_efficiency.data_sampling.curriculum_learning", "data_efficiency.data_routing.random_ltd")
# Read by other parts of DeepSpeed than its config class.
READ_LATER = {
    "data_parallel_size": "__init__.py",
    "pipeline.use_reentrant": "runtime/pipe/engine.py",
    "data_efficiency.data_sampling.dynamic_batching.metrics_path": "runtime/data_pipeline/constants.py",
}
DTYPES = [name for member in ds_config.DtypeEnum for name in member._all_values[1:]]
CHOICES: dict[str, list[Any]] = {
    "gradient_allreduce_op": [*constants.GRADIENT_ALLREDUCE_OP_SUPPORTED],
    "torch_autocast.dtype": DTYPES,
    **{f"data_types.{name}": [*DTYPES, None] for name in ("grad_accum_dtype", "param_dtype", "buffer_dtype")},
    "checkpoint.tag_validation": [*VALID_VALUES["tag_validation"]],
    "checkpoint.writer.type": [*VALID_VALUES["type"], None],
    "checkpoint.writer.data_parallel": [*VALID_VALUES["data_parallel"], None],
    "expert_parallel.preset_model": [*PRESET_MODELS, None],
}


def generate() -> Entry:
    """What the DeepSpeed that is imported says of its config."""
    kept = {type(value) for value in vars(BARE).values() if isinstance(value, DeepSpeedConfigModel)}
    missing = kept - {type(model) for model in MODELS.values()} - {type(BARE.monitor_config)}
    assert not missing, f"models of a config that are not in MODELS: {missing}"
    keys: Entries = {}
    for path in READ:
        keys |= read_keys(path)
    keys |= {f"pipeline.{name}": of_default(value) for name, value in ds_config.get_pipeline_config({}).items()}
    keys |= {path: {} for path, file in READ_LATER.items() if path.rpartition(".")[2] in (HOME / file).read_text()}
    for path, model in MODELS.items():
        keys[path] = {"types": ["object"], "model": True}
        keys |= model_keys(type(model), f"{path}.")
    for path, cls in DATACLASSES.items():
        keys |= dataclass_keys(cls, f"{path}.")
    for path, choices in CHOICES.items():
        keys[path]["choices"] = choices
    for path in {*READ, *MODELS, *BY_HAND, "expert_parallel"} - {""}:
        keys[path].pop("default", None)
        # An empty object is the default where it is the same as none.
        if state(config_with(path, {})) == state(config_with(path.rpartition(".")[0], {})):
            keys[path]["default"] = {}
    refused = {"": "_REMOVED_TOP_LEVEL_CONFIG_KEYS", "zero_optimization.": "_REMOVED_ZERO_CONFIG_KEYS"}
    rejected = [above + name for above, table in refused.items() for name in getattr(ds_config, table, ())]
    return {
        "keys": keys | {path: {"rejected": True} for path in rejected},
        "optimizers": optimizers(),
        "built_by_torch": BUILT_BY_TORCH,
        "schedulers": {name: parameters(getattr(lr_schedules, name)) for name in lr_schedules.VALID_LR_SCHEDULES},
    }


def generate_torch() -> Entry:
    """Optimizers and schedules of the torch that is imported, for the types that are not DeepSpeed's own."""
    classes = {name: cls for name, cls in vars(torch.optim).items() if inspect.isclass(cls) and name != "Optimizer"}
    schedulers = {name: getattr(torch.optim.lr_scheduler, name) for name in torch.optim.lr_scheduler.__all__}
    return {
        "torch": torch.__version__.partition("+")[0],
        "optimizers": {name: parameters(cls) for name, cls in classes.items()},
        "schedulers": {name: parameters(cls) for name, cls in schedulers.items()},
    }


def json_types(annotation: Any) -> list[str]:
    """JSON types that an annotation takes; none where JSON cannot hold what it wants."""
    if get_origin(annotation) in (Union, types.UnionType):
        return list(dict.fromkeys(name for part in get_args(annotation) for name in json_types(part)))
    if get_origin(annotation) is Literal:
        return ["string"]
    origin = get_origin(annotation) or annotation
    names = {bool: "boolean", str: "string", Path: "string", int: "integer", float: "number", dict: "object"}
    names |= {DeepSpeedConfigModel: "object", list: "array", tuple: "array", type(None): "null"}
    if not inspect.isclass(origin):
        return []
    if issubclass(origin, enum.Enum) and not issubclass(origin, str | int):
        return json_types(type(next(iter(origin)).value))
    return [name for base, name in names.items() if issubclass(origin, base)][:1]


def choices_of(annotation: Any) -> list[Any]:
    """The values an annotation allows; none where any of its types will do."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return list(dict.fromkeys(member.value for member in annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return [choice for part in get_args(annotation) for choice in choices_of(part)]
    return []


def plain(value: Any) -> Any:
    """A Python default as JSON holds it."""
    if isinstance(value, DeepSpeedConfigModel):
        return {}
    if isinstance(value, enum.Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def of_annotation(annotation: Any, default: Any) -> Entry:
    """What annotation and default of a field tell."""
    entry: Entry = {"types": json_types(annotation)}
    if not entry["types"]:
        return {}
    if default is not None:
        entry["default"] = plain(default)
    if choices := choices_of(annotation):
        entry["choices"] = choices
    parts = [part for part in (annotation, *get_args(annotation)) if get_origin(part) is list]
    if parts and (items := of_annotation(get_args(parts[0])[0], None)):
        entry["items"] = items
    return entry


def of_default(default: Any) -> Entry:
    """What a default alone tells: nothing where it is None."""
    if default is None:
        return {}
    default = plain(default)
    return {"types": json_types(type(default)), "default": default}


def model_keys(model: type[DeepSpeedConfigModel], above: str) -> Entries:
    """The fields of a pydantic model and of the models inside it."""
    keys: Entries = {}
    for name, field in model.model_fields.items():
        entry = of_annotation(field.annotation, field.get_default(call_default_factory=True))
        bounds = {"ge": "minimum", "gt": "exclusive_minimum", "le": "maximum", "lt": "exclusive_maximum"}
        for bound in field.metadata:
            entry |= {ours: getattr(bound, theirs) for theirs, ours in bounds.items() if hasattr(bound, theirs)}
        if field.alias:
            entry["alias"] = field.alias
        if (field.json_schema_extra or {}).get("deprecated"):
            entry["deprecated"] = True
        inner = [part for part in (field.annotation, *get_args(field.annotation)) if inspect.isclass(part)]
        for part in inner:
            if issubclass(part, DeepSpeedConfigModel):
                entry["model"] = True
                keys |= model_keys(part, f"{above}{name}.")
        keys[f"{above}{name}"] = entry
    return keys


def dataclass_keys(cls: Any, above: str) -> Entries:
    """The fields of a dataclass."""
    keys: Entries = {}
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        factory = field.default_factory
        default = None if factory is dataclasses.MISSING else factory()
        if field.default is not dataclasses.MISSING and field.default.__class__ is not object:
            default = field.default
        if field.init:
            keys[f"{above}{field.name}"] = of_annotation(hints[field.name], default)
    return keys


def state(config: Entry) -> Entry:
    """What DeepSpeed makes of a config."""

    def plainly(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plainly(inner) for name, inner in value.items()}
        return plainly(vars(value)) if hasattr(value, "__dict__") and not isinstance(value, type) else value

    made: Entry = vars(ds_config.DeepSpeedConfig(config))
    return {name: plainly(value) for name, value in made.items() if name != "_param_dict"}


class Recorder(dict[str, Any]):
    """A dict that remembers which keys were asked for, and with which default."""

    def __init__(self, content: Entry, like: "Recorder | None" = None) -> None:
        super().__init__(content)
        self.asked: dict[str, Any] = like.asked if like else {}

    def __copy__(self) -> "Recorder":
        return Recorder(self, self)

    def __getitem__(self, name: str) -> Any:
        self.asked.setdefault(name, None)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.asked.setdefault(str(name), None)
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        if self.asked.get(name) is None:
            self.asked[name] = copy.deepcopy(default)
        return super().get(name, default)

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        return KeysView(self)  # asks __contains__


def config_with(path: str, content: Any) -> Entry:
    """The smallest config that holds this at a dotted path."""
    config: Entry = {"train_micro_batch_size_per_gpu": 1}
    if not path:
        return {**config, **content}
    *above, last = path.split(".")
    place = config
    for name in above:
        place = place.setdefault(name, {})
    place[last] = content
    return config


def read_keys(path: str) -> Entries:
    """The keys of a block that DeepSpeed's functions ask for, with the defaults that they name."""
    recorder = Recorder(READ[path])
    config = config_with(path, recorder) if path else recorder  # a copy would forget what was asked
    ranks = ds_config.dist
    if not path:  # two ranks, for the keys that are read only where there are ranks
        ds_config.dist = types.SimpleNamespace(get_rank=lambda: 0, get_world_size=lambda *group: 2)
    try:
        ds_config.DeepSpeedConfig(config)
    finally:
        ds_config.dist = ranks
    return {f"{path}.{name}".lstrip("."): of_default(default) for name, default in recorder.asked.items()}


BY_ENGINE = {"self", "params", "model_params", "optimizer", "deepspeed", "adamw_mode"}  # what it gives of itself
BY_ENGINE |= {"max_grad_norm"}  # what it refuses before the constructor is called
FOR_TYPE_CHECKERS = vars(collections.abc) | {"Optimizer": torch.optim.Optimizer}  # torch imports these for them alone


def parameters(cls: Any) -> Entries:
    """What a constructor takes."""
    entries = {}
    hints = get_type_hints(cls.__init__, localns=FOR_TYPE_CHECKERS)
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name in BY_ENGINE:
            continue
        default = None if parameter.default is inspect.Parameter.empty else parameter.default
        entries[name] = of_annotation(hints[name], default) if name in hints else of_default(default)
        if parameter.default is inspect.Parameter.empty:
            entries[name]["required"] = True
    return entries


# By whom DeepSpeed has each type built: the default of the first that names a parameter counts.
BUILT_BY = {
    "adam": ("ops.adam.FusedAdam", "ops.adam.DeepSpeedCPUAdam"),
    "adamw": ("ops.adam.FusedAdam", "ops.adam.DeepSpeedCPUAdam"),
    "lamb": ("ops.lamb.FusedLamb",),
    "lion": ("ops.lion.FusedLion", "ops.lion.DeepSpeedCPULion"),
    "adagrad": ("ops.adagrad.DeepSpeedCPUAdagrad",),
    "onebitadam": ("runtime.fp16.onebit.adam.OnebitAdam",),
    "onebitlamb": ("runtime.fp16.onebit.lamb.OnebitLamb",),
    "zerooneadam": ("runtime.fp16.onebit.zoadam.ZeroOneAdam",),
}
# Or by this class of torch, or one of the mup package that hands its parameters on to it.
BUILT_BY_TORCH = {"adam": "Adam", "adamw": "AdamW", "adagrad": "Adagrad"}
BUILT_BY_TORCH |= {"muadam": "Adam", "muadamw": "AdamW", "musgd": "SGD"}
TAKEN_OUT = {"adam": {"torch_adam": False}, "adamw": {"torch_adam": False}}  # by the engine
TAKEN_OUT |= {kind: {"decoupled_wd": False} for kind in ("muadam", "muadamw", "musgd")}  # by the mup package
# The engine picks Muon's parameters out by name.
MUON = ["lr", "muon_lr", "adam_lr", "momentum", "weight_decay", "ns_method", "per_head_muon", "betas", "eps"]
MUON += ["adam_w_mode", "torch_adam", "foreach", "fp32_optimizer_states"]


def optimizers() -> dict[str, Entries]:
    """Parameters of DeepSpeed's own types, in lower case, without those of torch's class."""
    found: dict[str, Entries] = {}
    for kind in ds_config.DEEPSPEED_OPTIMIZERS:
        entries = {name: of_default(default) for name, default in TAKEN_OUT.get(kind, {}).items()}
        for path in reversed(BUILT_BY.get(kind, ())):
            module, _, name = path.rpartition(".")
            entries |= parameters(getattr(importlib.import_module(f"deepspeed.{module}"), name))
        found[kind] = entries
    source = "".join((HOME / name).read_text() for name in ("__init__.py", "runtime/engine.py", "runtime/config.py"))
    found["muon"] = {name: {} for name in MUON if re.search(rf"[\"']{name}[\"']", source)}
    return found


def as_text(found: Entry) -> str:
    """JSON with a line per key."""
    if not found or "types" in found or not any(isinstance(value, dict) for value in found.values()):
        return json.dumps(found)
    lines = [
        f"{json.dumps(name)}: {as_text(value) if isinstance(value, dict) else json.dumps(value)}"
        for name, value in found.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}"


def difference(found: Entry, newest: Entry) -> Entry:
    """Entries of an older release that differ from those of the newest; null for an entry that it does not have."""
    made: Entry = {}
    for section, entries in found.items():
        base = newest[section]
        differing = sorted(name for name in {*entries, *base} if entries.get(name) != base.get(name))
        made[section] = {name: entries.get(name) for name in differing}
    return made


def main() -> None:
    """Write the data of the imported DeepSpeed and torch: the newest release in full, the others as differences."""
    releases = {release: load_data(release) for release in known_releases()}
    own = deepspeed.__version__.partition("+")[0]
    releases[own] = generate()
    newest = max(releases, key=version_key)
    for release, found in releases.items():
        text = found if release == newest else {"like": newest, **difference(found, releases[newest])}
        (DATA / f"{release}.json").write_text(as_text(text) + "\n", encoding="utf-8")
    (DATA / "torch.json").write_text(as_text(generate_torch()) + "\n", encoding="utf-8")
    for path, entry in releases[own]["keys"].items():
        above, _, name = path.rpartition(".")
        if path not in REMOVED and (entry.get("rejected") or name not in NOTES.get(above, {})):
            print(f"{path}: write a note in layoutner/deepspeed_config/notes")


if __name__ == "__main__":
    main()
