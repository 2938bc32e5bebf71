"""Check that all ranks have the same versions, settings and data before training."""

import hashlib
import json
import socket
from collections import Counter
from importlib.metadata import version
from typing import Any

import torch

from layoutner import __version__
from layoutner.distributed.machine import available_cpus
from layoutner.distributed.ranks import Ranks
from layoutner.documents.columns import digest
from layoutner.errors import RanksDisagree
from layoutner.settings.tree import Settings
from layoutner.training.plan import Plan

COLUMNS = ("rank", "host", "device", "CPUs", "threads", "torch", "deepspeed", "transformers", "layoutner", "settings")
SHARED = COLUMNS[5:]  # columns that must be the same on all ranks


def table(settings: Settings, ranks: Ranks) -> str:
    """A table with one row per rank and a heading; for a single rank, one line. All ranks call it.

    Raises:
        RanksDisagree: on every rank: versions or settings differ; the message names the values and ranks.
    """
    tree = settings.model_dump(mode="json")
    row = {
        "rank": str(ranks.rank),
        "host": socket.gethostname(),
        "device": ranks.device_name,
        "CPUs": str(available_cpus()),
        "threads": str(torch.get_num_threads()),
        **{name: version(name) for name in ("torch", "deepspeed", "transformers")},
        "layoutner": __version__,
        "settings": _digest(tree),
    }
    values = {f"{section}.{key}": value for section, keys in tree.items() for key, value in keys.items()}
    rows, settings_of = map(list, zip(*ranks.all_gather_object((row, values)), strict=True))
    _require_same("versions or settings", [{name: row[name] for name in SHARED[:-1]} for row in rows], settings_of)
    if ranks.size == 1:
        return ", ".join(f"{name} {value}" for name, value in row.items())
    lines = [COLUMNS, *(tuple(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def require_same_plan(plan: Plan, ranks: Ranks) -> None:
    """Check that all ranks have the same data and plan. All ranks call it.

    Raises:
        RanksDisagree: on every rank: something differs; the message names the values and ranks.
    """
    parts = {name.replace("_", " "): _digest(value) for name, value in plan.identity.must_match.items()}
    parts["test documents"] = digest(plan.corpus.test)
    parts["checkpoint configuration"] = _digest(plan.pretrained.config.to_dict())
    parts["optimizer steps"] = str(plan.schedule.total)
    parts["DeepSpeed config"] = _digest(plan.ds_config)
    _require_same("files", ranks.all_gather_object(parts))


def _require_same(what: str, *gathered: list[dict[str, Any]]) -> None:
    """Compare each rank's values with the most common value; in a tie, with that of the lowest rank.

    A name that is missing on a rank, such as a setting that an older layoutner does not have, counts as null.
    """
    by_rank = [{name: value for tree in trees for name, value in tree.items()} for trees in zip(*gathered, strict=True)]
    names = dict.fromkeys(name for rank in by_rank for name in rank)
    usual = {name: Counter(json.dumps(rank.get(name)) for rank in by_rank).most_common(1)[0][0] for name in names}
    odd = [
        f"rank {number}: {name} = {json.dumps(rank.get(name))} instead of {usual[name]}"
        for number, rank in enumerate(by_rank)
        for name in names
        if json.dumps(rank.get(name)) != usual[name]
    ]
    if odd:
        raise RanksDisagree(
            f"the ranks see different {what}: {'; '.join(odd[:20])}: all of them need the same software, settings "
            "and files"
        )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
