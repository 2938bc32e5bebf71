"""The hand-written tables of DeepSpeed's keys against the DeepSpeed that is installed."""

import ast
import contextlib
import enum
import inspect
import json
import subprocess
import sys
import types
from collections.abc import Iterator, KeysView
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import deepspeed
import pytest
import torch
from deepspeed.module_inject.auto_ep_presets.registry import PRESET_MODELS
from deepspeed.ops.adagrad import DeepSpeedCPUAdagrad
from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
from deepspeed.ops.lamb import FusedLamb
from deepspeed.ops.lion import DeepSpeedCPULion, FusedLion
from deepspeed.runtime import config as ds_config
from deepspeed.runtime import constants, lr_schedules
from deepspeed.runtime.config_utils import DeepSpeedConfigModel
from deepspeed.runtime.data_pipeline import constants as data_constants
from deepspeed.runtime.engine import DeepSpeedEngine

import layoutner.deepspeed_config.schema as schema
from layoutner.deepspeed_config.schema import OPTIMIZERS, REMOVED, SCHEDULERS, TOP, Block, Key
from layoutner.deepspeed_config.schema.parallel import PARTITION_CONFIG, PIPELINE
from layoutner.deepspeed_config.schema.removed import REJECTED_TOP, REJECTED_ZERO

HOME = Path(deepspeed.__file__).parent


def under(block: Block, path: str = "") -> Iterator[tuple[str, Block]]:
    """Every block in a block, by dotted path; `*` stands for any name, `[]` for any element."""
    yield path, block
    for name, key in [*block.keys.items(), *([("*", block.others)] if block.others else [])]:
        where = f"{path}.{name}".lstrip(".")
        if key.block is not None:
            yield from under(key.block, where)
        if key.items is not None and key.items.block is not None:
            yield from under(key.items.block, f"{where}[]")


BLOCKS = dict(under(TOP))
NAMED = {path: block for path, block in BLOCKS.items() if not block.open and "*" not in path and "[" not in path}
PARAMETERS = {f"optimizer {name}": block for name, block in OPTIMIZERS.items()}
PARAMETERS |= {f"scheduler {name}": block for name, block in SCHEDULERS.items()}
KEYS = {f"{path}.{name}": key for path, b in (BLOCKS | PARAMETERS).items() for name, key in b.keys.items()}
KEYS |= {f"{path}.*": block.others for path, block in BLOCKS.items() if block.others is not None}
for _ in range(2):  # elements, and elements of elements
    KEYS |= {f"{path}[]": key.items for path, key in KEYS.items() if key.items is not None}


def plain(value: object) -> object:
    """A Python default as JSON would hold it."""
    if isinstance(value, DeepSpeedConfigModel):
        return {}
    if isinstance(value, enum.Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def agree(where: str, table: set[str], found: set[str]) -> None:
    assert table == found, f"{where}: only in the table {sorted(table - found)}, only found {sorted(found - table)}"


BARE = ds_config.DeepSpeedConfig({"train_batch_size": 1, "comms_logger": {}, "weight_quantization": {}})
MODELS: dict[str, type[DeepSpeedConfigModel]] = {
    "zero_optimization": type(BARE.zero_config),
    "fp16": type(BARE.float16_config),
    **dict.fromkeys(("bf16", "bfloat16"), type(BARE.bfloat16_config)),
    "comms_logger": type(BARE.comms_config.comms_logger),
    "compile": type(BARE.compile_config),
    "hybrid_engine": type(BARE.hybrid_engine),
    "tensor_parallel": type(BARE.tensor_parallel_config),
    "weight_quantization": type(BARE.weight_quantization_config),
    "timers.throughput": type(BARE.timers_config),
    **{name: field.annotation for name, field in type(BARE.monitor_config).model_fields.items()},
}
LENIENT = {"leaf_module": "null", "classes": "string", "names": "string", "name_suffixes": "string"}  # by validators


def json_types(annotation: Any) -> set[str]:
    """The JSON types a field's annotation takes; none where JSON cannot hold what it wants."""
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*(json_types(part) for part in get_args(annotation)))
    if get_origin(annotation) is Literal:
        return {"string"}
    origin = get_origin(annotation) or annotation
    names = {bool: "boolean", str: "string", Path: "string", int: "integer", float: "number", dict: "object"}
    names |= {DeepSpeedConfigModel: "object", list: "array", tuple: "array", type(None): "null"}
    return {next((name for base, name in names.items() if issubclass(origin, base)), "")} - {""}


def choices(annotation: Any) -> set[object]:
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return {member.value for member in annotation if member.name != "max_stage"}
    return set().union(*(choices(part) for part in get_args(annotation)), set())


def submodel(annotation: Any) -> type[DeepSpeedConfigModel] | None:
    found = [part for part in (annotation, *get_args(annotation)) if inspect.isclass(part)]
    return next((part for part in found if issubclass(part, DeepSpeedConfigModel)), None)


def models() -> Iterator[tuple[str, type[DeepSpeedConfigModel]]]:
    """Every model that a config can reach, by dotted path."""
    todo = list(MODELS.items())
    for path, model in todo:
        yield path, model
        inner = {name: submodel(field.annotation) for name, field in model.model_fields.items()}
        todo += [(f"{path}.{name}", found) for name, found in inner.items() if found]


@pytest.mark.parametrize(("path", "model"), models(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_block_has_the_keys_of_its_model(path: str, model: type[DeepSpeedConfigModel]) -> None:
    fields = model.model_fields
    agree(path, set(BLOCKS[path].keys), set(fields) | {field.alias for field in fields.values() if field.alias})
    names = [(alias, name) for name, field in fields.items() for alias in {name, field.alias or name}]
    wrong = [f"{path}.{alias}: {what}" for alias, name in names for what in differences(alias, name, path, model)]
    assert not wrong, "\n".join(wrong)


def differences(alias: str, name: str, path: str, model: type[DeepSpeedConfigModel]) -> Iterator[str]:
    """What a field of a model and its key in the table say differently."""
    field, key = model.model_fields[name], BLOCKS[path].keys[alias]
    expected, said = json_types(field.annotation), choices(field.annotation)
    default = plain(field.get_default(call_default_factory=True))
    if expected and expected != set(key.types) - {LENIENT.get(name, "")}:
        yield f"takes {sorted(expected)}, the table says {key.types}"
    if expected and default != key.default:
        yield f"default {default!r}, the table says {key.default!r}"
    if said and said != {*key.choices, *(key.items.choices if key.items else ())}:
        yield f"choices {said}, the table says {key.choices}"
    table = {"ge": key.minimum, "gt": key.exclusive_minimum, "le": key.maximum, "lt": key.exclusive_maximum}
    bounds = {kind: getattr(bound, kind) for bound in field.metadata for kind in table if hasattr(bound, kind)}
    if any(table[kind] != bound for kind, bound in bounds.items()):
        yield f"bounds {bounds}, the table says {table}"
    if bool(key.deprecated) != (field.json_schema_extra or {}).get("deprecated", False):
        yield "deprecated in one place only"


def test_every_model_of_a_config_is_compared() -> None:
    kept = {name: type(value) for name, value in vars(BARE).items() if isinstance(value, DeepSpeedConfigModel)}
    assert {name for name, model in kept.items() if model not in MODELS.values()} == {"monitor_config"}


def config_with(path: str, content: dict[str, Any]) -> dict[str, Any]:
    """The smallest config that holds this at a dotted path."""
    config: dict[str, Any] = {"train_micro_batch_size_per_gpu": 1}
    *above, last = path.split(".") if path else [""]
    place = config
    for name in above:
        place = place.setdefault(name, {})
    place |= {last: content} if last else content
    return config


@pytest.mark.parametrize("path", NAMED)
def test_deepspeed_is_as_strict_as_the_table_says(path: str) -> None:
    with pytest.raises(ValueError, match="made_up_key") if NAMED[path].strict else contextlib.nullcontext():
        ds_config.DeepSpeedConfig(config_with(path, {"made_up_key": 1}))
    assert NAMED[path].drops_auto == NAMED[path].strict
    ds_config.DeepSpeedConfig(config_with(path, {"made_up_key": "auto"}))  # dropped before it is looked at


class Recorder(dict[str, Any]):
    """A dict that remembers which keys were asked for, and with which default."""

    def __init__(self, content: dict[str, Any], like: "Recorder | None" = None) -> None:
        super().__init__(content)
        self.seen: set[str] = like.seen if like else set()
        self.defaults: list[tuple[str, object]] = like.defaults if like else []

    def __copy__(self) -> "Recorder":
        return Recorder(self, self)

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.seen.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.add(name)
        self.defaults.append((name, default))
        return super().get(name, default)

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        return KeysView(self)  # asks __contains__

    def wrong_defaults(self, block: Block) -> list[str]:
        asked = [(name, plain(default), block.keys[name]) for name, default in self.defaults if name in block.keys]
        return [
            f"{name}: {d!r}, the table says {k.default!r}" for name, d, k in asked if not k.block and d != k.default
        ]


def test_every_top_level_key_read_is_in_the_table_and_the_other_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    group = types.SimpleNamespace(get_rank=lambda: 0, get_world_size=lambda: 2)
    monkeypatch.setattr(ds_config, "dist", group)
    config = Recorder({"train_micro_batch_size_per_gpu": 1, "zero_optimization": True, "sequence_parallel_size": 1})
    ds_config.DeepSpeedConfig(config)
    read = config.seen - set(REJECTED_TOP) | literals("__init__.py", "config")
    agree("the top level", set(TOP.keys), read)
    assert not config.wrong_defaults(TOP)


CONTENT: dict[str, dict[str, Any]] = {
    "optimizer": {"type": "Adam", "params": {}},
    "scheduler": {"type": "WarmupLR", "params": {}},
    "torch_autocast": {"dtype": "bf16", "lower_precision_safe_modules": []},
    "timers": {"throughput": {}},
    "expert_parallel": {"enabled": False},
}
READ = (*CONTENT, "data_types", "flops_profiler", "activation_checkpointing", "aio", "autotuning", "checkpoint")
READ += ("autotuning.model_info", "checkpoint.writer", "checkpoint.parallel_write", "data_efficiency")
READ += ("data_efficiency.data_sampling", "data_efficiency.data_routing")


@pytest.mark.parametrize("path", READ)
def test_every_key_read_of_a_block_is_in_the_table_and_the_other_way_round(path: str) -> None:
    config = Recorder(CONTENT.get(path, {}))
    ds_config.DeepSpeedConfig(config_with(path, config))
    agree(path, set(BLOCKS[path].keys), config.seen)
    assert not config.wrong_defaults(BLOCKS[path])


def literals(file: str, name: str) -> set[str]:
    """The keys a file of DeepSpeed asks a variable or attribute for: name["key"], name.get("key"), "key" in name."""
    found = set()
    for node in ast.walk(ast.parse((HOME / file).read_text(encoding="utf-8"))):
        owner: ast.expr | None = None
        if isinstance(node, ast.Subscript):
            owner, asked = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            owner, asked = node.func.value, node.args[0]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In):
            owner, asked = node.comparators[0], node.left
        if (
            owner is not None
            and isinstance(asked, ast.Constant)
            and name in (vars(owner).get("id"), vars(owner).get("attr"))
        ):
            found.add(asked.value)
    assert found, f"{file} asks {name} for nothing: it was rewritten"
    return found


def test_keys_read_after_the_config_class() -> None:
    assert literals("runtime/tensor_parallel/init_utils.py", "config_dict") <= set(TOP.keys)
    assert literals("runtime/tensor_parallel/init_utils.py", "tp_section") <= set(BLOCKS["tensor_parallel"].keys)
    assert literals("runtime/pipe/engine.py", "pipeline") <= set(PIPELINE.keys)
    defaults = ds_config.get_pipeline_config({}) | {"use_reentrant": None}
    assert defaults == {name: key.default for name, key in PIPELINE.keys.items()}
    rules = "module_inject/autotp_config.py"
    agree("partition_config", set(PARTITION_CONFIG.keys), literals(rules, "config_dict"))
    layer = BLOCKS["tensor_parallel.partition_config.layer_specs[]"]
    agree("layer_specs", set(layer.keys), literals(rules, "spec_dict"))
    group = BLOCKS["weight_quantization.post_init_quant.*"]
    agree("post_init_quant", set(group.keys), literals("inference/quantization/utils.py", "config"))
    assert {*BLOCKS["expert_parallel"].keys["preset_model"].choices} == {*PRESET_MODELS, None}


# Strings of DeepSpeed's constants that name something other than a key of the config.
OTHER = {"train", "eval", "predict", "encode", "ddp_bf16", "ds_pipe_replicated", "data_parallel_group", "global_rank"}
OTHER |= {"max_grad_norm", "check_overflow"}  # refused in optimizer.params; left over from check_grad_overflow
STATE = {"cluster", "current_difficulty", "batch", "consumed_samples", "curriculum_step", "np_rng_state", "sample_idx"}
STATE |= {"current_difficulties", "data_cluster_paths", "data_cluster_current_position", "single_cluster"}
STATE |= {"attention_mask", "consumed_layer_tokens", "current_value", "current_steps"}


@pytest.mark.parametrize(("module", "other"), [(constants, OTHER), (data_constants, STATE)], ids=["runtime", "data"])
def test_every_constant_is_a_key_a_choice_or_known_to_be_neither(module: types.ModuleType, other: set[str]) -> None:
    known = {path.rpartition(".")[2] for path in KEYS} | {str(c).lower() for key in KEYS.values() for c in key.choices}
    values = {name: value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)}
    named = {name: value for name, value in values.items() if not name.endswith(("_DEFAULT", "_FORMAT"))}
    unknown = {name: value for name, value in named.items() if value.lower() not in known | other}
    assert not unknown, f"in no table: {unknown}"
    assert other <= set(named.values()), f"no longer a constant: {sorted(other - set(named.values()))}"


def parameters(constructor: Any) -> dict[str, object]:
    own = inspect.signature(constructor.__init__).parameters
    skip = ("self", "params", "model_params", "optimizer")
    return {name: plain(parameter.default) for name, parameter in own.items() if name not in skip}


TORCH = {name: cls for name, cls in vars(torch.optim).items() if inspect.isclass(cls) and name != "Optimizer"}
MUP, POPPED = {"decoupled_wd": False}, {"torch_adam": False}  # of the mup package; taken out by the engine
BUILT: dict[str, tuple[dict[str, object], ...]] = {  # the first one's defaults count
    "adam": (parameters(FusedAdam), parameters(DeepSpeedCPUAdam), parameters(TORCH["Adam"]), POPPED),
    "adamw": (parameters(FusedAdam), parameters(DeepSpeedCPUAdam), parameters(TORCH["AdamW"]), POPPED),
    "lamb": (parameters(FusedLamb),),
    "lion": (parameters(FusedLion), parameters(DeepSpeedCPULion)),
    "adagrad": (parameters(TORCH["Adagrad"]), parameters(DeepSpeedCPUAdagrad)),
    "muadam": (parameters(TORCH["Adam"]), MUP),
    "muadamw": (parameters(TORCH["AdamW"]), MUP),
    "musgd": (parameters(TORCH["SGD"]), MUP),
    **{name.lower(): (parameters(cls),) for name, cls in TORCH.items() if name.lower() not in schema.DEEPSPEED_TYPES},
}
ENGINE = {"adamw_mode", "max_grad_norm"}  # given by the engine, and refused by it, before the constructor is called


@pytest.mark.parametrize("name", BUILT)
def test_an_optimizer_takes_the_parameters_of_its_constructors(name: str) -> None:
    expected = {key: default for built in reversed(BUILT[name]) for key, default in built.items() if key not in ENGINE}
    keys = OPTIMIZERS[name].keys
    agree(name, set(keys), set(expected))
    assert {key: keys[key].default for key in expected} == expected
    assert OPTIMIZERS[name].strict


def test_muon_takes_what_the_engine_picks_out() -> None:
    picked = {*DeepSpeedEngine._MUON_HALF_KEYS, *DeepSpeedEngine._ADAM_HALF_KEYS, "muon_lr", "adam_lr"}
    popped = {ds_config.TORCH_ADAM_PARAM, ds_config.ADAM_W_MODE, "fp32_optimizer_states", "foreach"}
    flags = inspect.getsource(deepspeed.set_optimizer_flags)
    assert flags.count(".get(") == flags.count('.get("per_head_muon"') == 1
    agree("muon", set(OPTIMIZERS["muon"].keys), picked | popped | {"per_head_muon"})
    assert not OPTIMIZERS["muon"].strict


def test_every_optimizer_and_every_schedule_has_a_table() -> None:
    agree("DeepSpeed's optimizers", set(schema.DEEPSPEED_TYPES), set(ds_config.DEEPSPEED_OPTIMIZERS))
    fallback = {name for name in TORCH if name.lower() not in schema.DEEPSPEED_TYPES}
    agree("torch's optimizers", set(schema.TORCH_TYPES.values()), fallback)
    agree("the table of optimizers", set(OPTIMIZERS), {*schema.DEEPSPEED_TYPES, *schema.TORCH_TYPES})
    agree("DeepSpeed's schedules", set(schema.DEEPSPEED_SCHEDULERS), set(lr_schedules.VALID_LR_SCHEDULES))
    own = set(SCHEDULERS) - set(schema.DEEPSPEED_SCHEDULERS)
    agree("torch's schedules", own | set(schema.NOT_FROM_JSON), set(torch.optim.lr_scheduler.__all__))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_schedule_takes_the_parameters_of_its_constructor(name: str) -> None:
    home = lr_schedules if name in schema.DEEPSPEED_SCHEDULERS else torch.optim.lr_scheduler
    expected, keys = parameters(getattr(home, name)), SCHEDULERS[name].keys
    agree(name, set(keys), set(expected))
    assert {k: inspect.Parameter.empty if keys[k].required else keys[k].default for k in expected} == expected


def test_what_deepspeed_refuses_is_in_the_table_of_removed_keys() -> None:
    agree("the top level", set(REJECTED_TOP), set(ds_config._REMOVED_TOP_LEVEL_CONFIG_KEYS))
    agree("zero_optimization", set(REJECTED_ZERO), set(ds_config._REMOVED_ZERO_CONFIG_KEYS))


@pytest.mark.parametrize("path", REMOVED)
def test_a_removed_key_is_in_no_other_table(path: str) -> None:
    above, _, last = path.rpartition(".")
    assert f".{last}" not in KEYS if not above else path not in KEYS
    assert not [name for name, block in OPTIMIZERS.items() if above == "optimizer.params" and last in block.keys]
    assert above != "optimizer.type" or (last.lower() not in OPTIMIZERS and last not in TORCH)


def test_the_tables_load_neither_torch_nor_deepspeed() -> None:
    code = (
        "import sys, layoutner.deepspeed_config.schema as s; s.json_schema()\n"
        "print([m for m in ('torch', 'deepspeed', 'pydantic', 'hjson') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def holds(key: Key, value: object) -> bool:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    name = names.get(type(value), "null")
    return name in key.types or (name == "integer" and "number" in key.types)


def test_a_key_makes_sense_in_itself() -> None:
    for path, key in KEYS.items():
        assert key.meaning.strip(), f"{path} has no meaning"
        assert key.types, path
        assert key.default is None or holds(key, key.default), f"{path}: default {key.default!r}"
        assert all(holds(key, choice) for choice in key.choices), path
        assert not key.choices or key.default in (None, *key.choices), f"{path}: default {key.default!r}"
        assert not key.choices or ("null" in key.types) == (None in key.choices), path
        if len(key.types) < 7:  # not one of those that take anything
            assert ("array" in key.types) == (key.items is not None), path
            assert ("object" in key.types) == (key.block is not None), path


@pytest.mark.parametrize("auto", [False, True])
def test_the_json_schema_names_every_key(auto: bool) -> None:
    whole = json.loads(json.dumps(schema.json_schema(auto)))
    agree("the JSON Schema", set(TOP.keys), set(whole["properties"]))
    zero = whole["properties"]["zero_optimization"]
    assert whole["additionalProperties"] is zero["additionalProperties"] is False
    stage = zero["properties"]["stage"]["anyOf"]
    assert stage == [{"type": "integer", "enum": [0, 1, 2, 3]}, {"const": "auto"}]
    branches = whole["properties"]["optimizer"]["allOf"]
    named = [set(branch["then"]["properties"]["params"]["properties"]) for branch in branches]
    assert named == [set(OPTIMIZERS[name].keys) for name in (*schema.DEEPSPEED_TYPES, *schema.TORCH_TYPES)]
