"""The schema of each known release: the generated data against the installed DeepSpeed, and the notes on them."""

import ast
import contextlib
import inspect
import json
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
from deepspeed.module_inject.auto_ep_config import parse_autoep_config
from deepspeed.runtime import config as ds_config
from deepspeed.runtime import constants
from deepspeed.runtime.data_pipeline import constants as data_constants
from deepspeed.runtime.engine import DeepSpeedEngine

from layoutner.deepspeed_config.check import check
from layoutner.deepspeed_config.finding import ERROR, NOTE, WARNING
from layoutner.deepspeed_config.json_schema import json_schema
from layoutner.deepspeed_config.key import Block, Key, Notes
from layoutner.deepspeed_config.notes import NOTES, optimizers, schedulers
from layoutner.deepspeed_config.notes.removed import REMOVED
from layoutner.deepspeed_config.schema import (
    DATA,
    Schema,
    installed_schema,
    known_releases,
    load_data,
    load_schema,
)
from scripts.deepspeed_schema import Recorder, as_text, config_with, generate, generate_torch

HOME = Path(deepspeed.__file__).parent
INSTALLED = deepspeed.__version__.partition("+")[0]
TORCH = json.loads((DATA / "torch.json").read_text(encoding="utf-8"))


def under(block: Block, path: str = "") -> Iterator[tuple[str, Block]]:
    """Every block in a block, by dotted path; `*` stands for any name, `[]` for any element."""
    yield path, block
    for name, key in [*block.keys.items(), *([("*", block.others)] if block.others else [])]:
        where = f"{path}.{name}".lstrip(".")
        if key.block is not None:
            yield from under(key.block, where)
        if key.items is not None and key.items.block is not None:
            yield from under(key.items.block, f"{where}[]")


def blocks_of(schema: Schema) -> dict[str, Block]:
    """Every block of a release, and what the params of each type may hold."""
    found = dict(under(schema.top))
    found |= {f"optimizer {name}": block for name, block in schema.optimizers.items()}
    return found | {f"scheduler {name}": block for name, block in schema.schedulers.items()}


def keys_of(schema: Schema) -> dict[str, Key]:
    """Every key of a release by dotted path, and what elements of arrays are."""
    blocks = blocks_of(schema)
    keys = {f"{path}.{name}": key for path, block in blocks.items() for name, key in block.keys.items()}
    keys |= {f"{path}.*": block.others for path, block in blocks.items() if block.others is not None}
    for _ in range(2):  # elements, and elements of elements
        keys |= {f"{path}[]": key.items for path, key in keys.items() if key.items is not None}
    return keys


SCHEMA = installed_schema()
BLOCKS, KEYS = blocks_of(SCHEMA), keys_of(SCHEMA)
NAMED = {path: block for path, block in under(SCHEMA.top) if not block.open and "*" not in path and "[" not in path}


def agree(where: str, table: set[str], found: set[str]) -> None:
    assert table == found, f"{where}: only in the table {sorted(table - found)}, only found {sorted(found - table)}"


def test_the_data_are_what_the_installed_deepspeed_says() -> None:
    assert INSTALLED in known_releases(), f"no data for DeepSpeed {INSTALLED}: run scripts/deepspeed_schema.py"
    assert json.loads(as_text(generate())) == load_data(INSTALLED)


def test_the_data_on_torch_are_what_the_installed_torch_says() -> None:
    found = json.loads(as_text(generate_torch()))
    if found["torch"].split(".")[:2] == TORCH["torch"].split(".")[:2]:
        assert found == {**TORCH, "torch": found["torch"]}
    for section in ("optimizers", "schedulers"):  # of any torch; annotations may be worded in another way

        def parameters(data: dict[str, Any], section: str = section) -> dict[str, Any]:
            return {
                kind: {name: (entry.get("default"), entry.get("required")) for name, entry in entries.items()}
                for kind, entries in data[section].items()
            }

        assert parameters(found) == parameters(TORCH)


def test_the_newest_release_is_whole_and_the_others_say_what_differs() -> None:
    releases = known_releases()
    assert releases == ["0.19.6", "0.19.7", "0.19.8"]
    files = {release: json.loads((DATA / f"{release}.json").read_text(encoding="utf-8")) for release in releases}
    assert [data.get("like") for data in files.values()] == ["0.19.8", "0.19.8", None]
    newest = load_data("0.19.8")
    assert len(newest["keys"]) > 350
    for release in releases[:-1]:
        assert 10 < sum(load_data(release)["keys"].get(path) != entry for path, entry in newest["keys"].items()) < 60


NEW = {  # some keys that a release has and the one before it has not
    "0.19.7": ("zero_optimization.compute_grad_norm", "expert_parallel.comm_backend"),
    "0.19.8": ("compile.autoep_non_moe", "data_types.keep_in_fp32_modules", "optimizer muon.per_head_muon"),
}


def test_a_release_has_the_keys_of_its_own_code() -> None:
    keys = {release: keys_of(load_schema(release)) for release in known_releases()}
    for before, release in zip(known_releases(), known_releases()[1:], strict=False):
        for path in NEW[release]:
            path = path if path in keys[release] else f".{path}"
            assert path in keys[release]
            assert path not in keys[before]
    assert keys["0.19.6"]["hybrid_engine.max_out_tokens"].exclusive_minimum is None
    assert keys["0.19.7"]["hybrid_engine.max_out_tokens"].exclusive_minimum == 0
    assert "fused_weighted_sum" in keys["0.19.7"]["expert_parallel.combine_impl"].choices
    assert "fused_weighted_sum" not in keys["0.19.6"]["expert_parallel.combine_impl"].choices


ELASTIC = {"elasticity": {"enabled": True, "max_train_batch_size": 64, "micro_batch_sizes": [2, 4]}}
ONE_BIT = {
    "train_batch_size": 8,
    "optimizer": {"type": "OneBitAdam", "params": {"lr": 1e-3, "freeze_step": 10, "betas": [0.9, 0.99]}},
}


@pytest.mark.parametrize(
    ("config", "release", "expected"),
    [
        (ELASTIC, "0.19.7", {"elasticity": WARNING}),
        (ELASTIC, "0.19.8", {"elasticity": ERROR, "": ERROR}),  # and so no batch size
        (ONE_BIT, "0.19.6", {"optimizer.type": WARNING, "optimizer.params.freeze_step": WARNING}),
        (ONE_BIT, "0.19.7", {"optimizer.type": ERROR, "optimizer.params.freeze_step": ERROR}),
        ({"train_batch_size": 8, "compile": {"autoep_non_moe": True}}, "0.19.7", {"compile.autoep_non_moe": ERROR}),
        ({"train_batch_size": 8, "compile": {"autoep_non_moe": True}}, "0.19.8", {}),
        ({"train_batch_size": 8, "zero_optimization": {"stage": 3, "mics_shard_size": 2}}, "0.19.6", None),
    ],
)
def test_a_config_is_checked_against_a_release(
    config: dict[str, Any], release: str, expected: dict[str, str] | None
) -> None:
    findings = check(json.dumps(config, indent=1), schema=load_schema(release))
    if expected is None:
        (finding,) = findings
        assert (finding.severity, finding.message) == (WARNING, "removed in DeepSpeed 0.19.7")
    else:
        assert {finding.path: finding.severity for finding in findings if finding.severity != NOTE} == expected


@pytest.mark.parametrize(
    ("installed", "release", "unknown"),
    [
        ("0.19.6", "0.19.6", ""),
        ("0.19.7+1a2b3c4", "0.19.7", ""),
        ("0.19.99", "0.19.8", "the installed DeepSpeed 0.19.99 is unknown to this check"),
        (None, "0.19.8", "DeepSpeed is not installed"),
    ],
)
def test_an_unknown_release_is_checked_against_the_newest_and_told(
    installed: str | None, release: str, unknown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(metadata, "version", version)
    schema = installed_schema.__wrapped__()
    assert (schema.release, schema.unknown_release) == (release, unknown)
    told = [(f.severity, f.message, f.advice) for f in check('{"train_batch_size": 8}', schema=schema)]
    assert told == ([(NOTE, unknown, "checked against DeepSpeed 0.19.8")] if unknown else [])


def test_no_note_says_what_the_data_say() -> None:
    """What a note says of types, default, bounds or values is new for one of the keys that it stands at."""
    plain = {field.name: field.default for field in fields(Key)}
    new: dict[tuple[int, str], list[str]] = {}

    def compare(note: str | Key | None, entry: dict[str, Any], path: str) -> None:
        if not isinstance(note, Key):
            return
        for name, value in vars(note).items():
            if name not in ("meaning", "unit", "items") and value != plain[name]:
                said, told = entry.get(name), value
                if isinstance(value, tuple):  # in any order
                    said, told = ({*map(str, values or ())} for values in (said, value))
                new.setdefault((id(note), name), []).append("" if said != told else f"{path}: {name} = {value}")
        compare(note.items, entry.get("items", {}), f"{path}[]")

    for release in known_releases():
        data = load_data(release)
        for path, entry in data["keys"].items():
            above, _, name = path.rpartition(".")
            compare(NOTES.get(above, {}).get(name), entry, path)
        for shared, own, found in (
            (optimizers.PARAMETERS, optimizers.OPTIMIZERS, merged_optimizers(data)),
            (schedulers.PARAMETERS, schedulers.SCHEDULERS, TORCH["schedulers"] | data["schedulers"]),
        ):
            for kind, entries in found.items():
                notes: Notes = {**shared, **own.get(kind, {})}
                for name, entry in entries.items():
                    compare(notes.get(name), entry, f"{kind}.{name}")
    assert not [told for told in new.values() if all(told)]


def merged_optimizers(data: dict[str, Any]) -> dict[str, Any]:
    found = {name.lower(): entries for name, entries in TORCH["optimizers"].items()}
    return found | {
        kind: TORCH["optimizers"].get(data["built_by_torch"].get(kind), {}) | entries
        for kind, entries in data["optimizers"].items()
    }


def test_every_note_is_of_a_key_that_a_release_has() -> None:
    keys = {path.lstrip(".") for release in known_releases() for path in keys_of(load_schema(release))}
    noted = {f"{path}.{name}".lstrip(".") for path, notes in NOTES.items() for name, note in notes.items() if note}
    assert noted <= keys
    kinds = {"optimizer": optimizers.OPTIMIZERS, "scheduler": schedulers.SCHEDULERS}
    for what, notes_of in kinds.items():
        assert {f"{what} {kind}.{name}" for kind, notes in notes_of.items() for name in notes} <= keys


@pytest.mark.parametrize("path", NAMED)
def test_deepspeed_is_as_strict_as_the_table_says(path: str) -> None:
    with pytest.raises(ValueError, match="made_up_key") if NAMED[path].strict else contextlib.nullcontext():
        ds_config.DeepSpeedConfig(config_with(path, {"made_up_key": 1}))
    assert NAMED[path].drops_auto == NAMED[path].strict
    ds_config.DeepSpeedConfig(config_with(path, {"made_up_key": "auto"}))  # dropped before it is looked at


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
    assert literals("runtime/tensor_parallel/init_utils.py", "config_dict") <= set(SCHEMA.top.keys)
    assert literals("runtime/tensor_parallel/init_utils.py", "tp_section") <= set(BLOCKS["tensor_parallel"].keys)
    assert literals("runtime/pipe/engine.py", "pipeline") <= set(BLOCKS["pipeline"].keys)
    assert literals("__init__.py", "config") <= set(SCHEMA.top.keys)
    rules = "module_inject/autotp_config.py"
    agree("partition_config", set(BLOCKS["tensor_parallel.partition_config"].keys), literals(rules, "config_dict"))
    layer = BLOCKS["tensor_parallel.partition_config.layer_specs[]"]
    agree("layer_specs", set(layer.keys), literals(rules, "spec_dict"))
    group = BLOCKS["weight_quantization.post_init_quant.*"]
    agree("post_init_quant", set(group.keys), literals("inference/quantization/utils.py", "config"))
    config = Recorder({"enabled": False})
    parse_autoep_config(config)
    agree("expert_parallel", set(BLOCKS["expert_parallel"].keys), set(config.asked))


# Strings of DeepSpeed's constants that name something other than a key of the config.
OTHER = {"train", "eval", "predict", "encode", "ddp_bf16", "ds_pipe_replicated", "data_parallel_group", "global_rank"}
OTHER |= {"max_grad_norm", "check_overflow"}  # refused in optimizer.params; left over from check_grad_overflow
STATE = {"cluster", "current_difficulty", "batch", "consumed_samples", "curriculum_step", "np_rng_state", "sample_idx"}
STATE |= {"current_difficulties", "data_cluster_paths", "data_cluster_current_position", "single_cluster"}
STATE |= {"attention_mask", "consumed_layer_tokens", "current_value", "current_steps"}


OF_THE_NEWEST = pytest.mark.skipif(known_releases()[-1] != INSTALLED, reason="reads the code of the newest release")


@OF_THE_NEWEST
@pytest.mark.parametrize(("module", "other"), [(constants, OTHER), (data_constants, STATE)], ids=["runtime", "data"])
def test_every_constant_is_a_key_a_choice_or_known_to_be_neither(module: types.ModuleType, other: set[str]) -> None:
    known = {path.rpartition(".")[2] for path in KEYS} | {str(c).lower() for key in KEYS.values() for c in key.choices}
    values = {name: value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)}
    named = {name: value for name, value in values.items() if not name.endswith(("_DEFAULT", "_FORMAT"))}
    unknown = {name: value for name, value in named.items() if value.lower() not in known | other}
    assert not unknown, f"in no table: {unknown}"
    assert other <= set(named.values()), f"no longer a constant: {sorted(other - set(named.values()))}"


@OF_THE_NEWEST
def test_muon_takes_what_the_engine_picks_out() -> None:
    picked = {*DeepSpeedEngine._MUON_HALF_KEYS, *DeepSpeedEngine._ADAM_HALF_KEYS, "muon_lr", "adam_lr"}
    popped = {ds_config.TORCH_ADAM_PARAM, ds_config.ADAM_W_MODE, "fp32_optimizer_states", "foreach"}
    flags = inspect.getsource(deepspeed.set_optimizer_flags)
    assert flags.count(".get(") == flags.count('.get("per_head_muon"') == 1
    agree("muon", set(SCHEMA.optimizers["muon"].keys), picked | popped | {"per_head_muon"})
    assert not SCHEMA.optimizers["muon"].strict


def test_every_type_is_deepspeeds_own_or_torchs() -> None:
    assert SCHEMA.torch_types["sgd"] == "SGD"
    assert SCHEMA.deepspeed_types["muadamw"] == "MuAdamW"
    agree("optimizers", set(SCHEMA.optimizers), {*SCHEMA.deepspeed_types, *SCHEMA.torch_types})
    own = set(SCHEMA.schedulers) - set(SCHEMA.deepspeed_schedulers)
    agree("torch's schedules", own | set(schedulers.NOT_FROM_JSON), set(torch.optim.lr_scheduler.__all__))


def test_a_rejected_key_was_removed_in_the_first_release_that_rejects_it() -> None:
    rejects = {
        release: {path for path, entry in load_data(release)["keys"].items() if entry.get("rejected")}
        for release in known_releases()
    }
    first = {path: release for release in reversed(known_releases()) for path in rejects[release]}
    assert len(first) == 14
    assert {path: REMOVED[path][0] for path in first} == first


@pytest.mark.parametrize("path", REMOVED)
def test_a_removed_key_is_in_no_other_table(path: str) -> None:
    above, _, last = path.rpartition(".")
    newest = load_schema(known_releases()[-1])
    assert (path if above else f".{path}") not in keys_of(newest)
    blocks = newest.optimizers
    assert not [name for name, block in blocks.items() if above == "optimizer.params" and last in block.keys]
    assert above != "optimizer.type" or last.lower() not in blocks


def test_the_tables_load_neither_torch_nor_deepspeed() -> None:
    code = (
        "import sys, layoutner.deepspeed_config.schema as s, layoutner.deepspeed_config.json_schema as j\n"
        "j.json_schema(s.installed_schema())\n"
        "print([m for m in ('torch', 'deepspeed', 'pydantic', 'hjson') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def holds(key: Key, value: object) -> bool:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    name = "integer" if isinstance(value, float) and value.is_integer() else names.get(type(value), "null")
    return name in key.types or (name == "integer" and "number" in key.types)


@pytest.mark.parametrize("release", known_releases())
def test_a_key_makes_sense_in_itself(release: str) -> None:
    for path, key in keys_of(load_schema(release)).items():
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
    whole = json.loads(json.dumps(json_schema(SCHEMA, auto)))
    agree("the JSON Schema", set(SCHEMA.top.keys), set(whole["properties"]))
    zero = whole["properties"]["zero_optimization"]
    assert whole["additionalProperties"] is zero["additionalProperties"] is False
    stage = zero["properties"]["stage"]["anyOf"]
    assert stage == [{"type": "integer", "enum": [0, 1, 2, 3]}, {"const": "auto"}]
    branches = whole["properties"]["optimizer"]["allOf"]
    named = [set(branch["then"]["properties"]["params"]["properties"]) for branch in branches]
    kinds = (*SCHEMA.deepspeed_types, *SCHEMA.torch_types)
    assert named == [set(SCHEMA.optimizers[name].keys) for name in kinds]
