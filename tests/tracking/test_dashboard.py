"""The dashboard: what it names is logged, and what a server that stands in for W&B is sent."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from layoutner.tracking.dashboard import SECTIONS, TABLES, tensorboard_layout, workspace
from tests.builders.forks import fork
from tests.builders.processes import launch
from tests.builders.wandb_server import KEY, wandb_server


@pytest.mark.slow
def test_every_metric_is_one_that_a_run_logs(
    train_arguments: Callable[..., list[str]], forms: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    more = {"data__eval": 0.25, "data__test": forms, "run__eval_every": 2, "run__gradient_statistics_every": 2}
    done = fork(["layoutner", "train", *train_arguments(run, **more)])
    assert done.returncode == 0, done.stderr[-3000:]
    logged = {name for line in (run / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)}
    for panels in SECTIONS.values():
        for panel in panels:
            for pattern in panel.patterns:
                assert any(re.search(pattern, name) for name in logged), pattern


def test_the_sections_are_those_of_the_view_and_of_tensorboard() -> None:
    spec = json.loads(workspace("me", "forms")._to_model().spec.model_dump_json(by_alias=True))
    sections = spec["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == [*SECTIONS, "pages"]
    drawn = {panel["config"].get("chartTitle"): panel["config"] for section in sections for panel in section["panels"]}
    assert drawn["F1"]["metrics"] == ["eval/f1", "best/f1"]
    assert drawn["F1 by entity type"]["metricRegex"] == "^eval/by_entity/.+/f1$"
    assert all(table in json.dumps(sections[-1]) for table in TABLES)
    assert tensorboard_layout().keys() == SECTIONS.keys()
    assert tensorboard_layout()["memory"] == {"peak memory in GiB": ["Multiline", ["^memory/peak_GiB$"]]}


@pytest.mark.slow
def test_the_view_is_made_once_and_then_replaced(tmp_path: Path) -> None:
    with wandb_server() as server:
        there = {**server.environment(), "HOME": str(tmp_path)}
        for _ in range(2):
            done = launch(["layoutner", "dashboard", "--wandb.project", "forms", "--wandb.entity", "me"], **there)
            assert (done.returncode, done.stdout) == (0, f"{server.address}/me/forms?nw=layoutner\n"), done.stderr
        done = launch(["layoutner", "dashboard", "--wandb.project", "nothing", "--wandb.entity", "me"], **there)
    assert [(one["entityName"], one["projectName"], one.get("id")) for one in server.views] == [
        ("me", "forms", None),
        ("me", "forms", "V1"),
    ]
    first, second = (re.sub(r'"__id__":"\w+"', "", one["spec"]) for one in server.views)
    assert first == second
    assert "eval/f1" in first
    assert done.returncode == 2
    assert "wandb.project = nothing: me has no such project" in done.stderr
    assert KEY not in done.stdout + done.stderr
