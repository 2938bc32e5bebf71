"""The dashboard: what it names is logged, and what a server that stands in for W&B is sent."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from layoutner.tracking.dashboard import SECTIONS, TABLES, tensorboard_layout, workspace
from tests.builders.forks import fork
from tests.builders.processes import launch

KEY = "0123456789" * 4


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


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Stands in for the GraphQL endpoint: its address, and the views that it was sent."""
    saved: list[dict[str, Any]] = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            asked = json.loads(content) if self.path == "/graphql" else {"query": ""}
            answer: dict[str, Any] = {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}"}}
            if "upsertView" in asked["query"]:
                saved.append(asked["variables"])
                answer = {"upsertView": {"view": {"id": "V1", "name": asked["variables"]["name"]}, "inserted": True}}
            elif "allViews" in asked["query"]:
                known = asked["variables"]["project"] == "forms"
                edges = [{"node": {"id": "V1"}}] if saved else []
                answer = {"project": {"allViews": {"edges": edges}} if known else None}
            body = json.dumps({"data": answer}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as endpoint:
        thread = threading.Thread(target=endpoint.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{endpoint.server_port}", saved
        endpoint.shutdown()
        thread.join()


@pytest.mark.slow
def test_the_view_is_made_once_and_then_replaced(server: tuple[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    address, saved = server
    there = {"WANDB_BASE_URL": address, "WANDB_API_KEY": KEY, "HOME": str(tmp_path)}
    for _ in range(2):
        done = launch(["layoutner", "dashboard", "--wandb.project", "forms", "--wandb.entity", "me"], **there)
        assert (done.returncode, done.stdout) == (0, f"{address}/me/forms?nw=layoutner\n"), done.stderr
    assert [(one["entityName"], one["projectName"], one.get("id")) for one in saved] == [
        ("me", "forms", None),
        ("me", "forms", "V1"),
    ]
    first, second = (re.sub(r'"__id__":"\w+"', "", one["spec"]) for one in saved)
    assert first == second
    assert "eval/f1" in saved[0]["spec"]
    done = launch(["layoutner", "dashboard", "--wandb.project", "nothing", "--wandb.entity", "me"], **there)
    assert done.returncode == 2
    assert "wandb.project = nothing: me has no such project" in done.stderr
    assert KEY not in done.stdout + done.stderr
