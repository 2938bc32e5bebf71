"""A small server in place of Weights & Biases: it answers the GraphQL calls of its client with what a test sets."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789" * 4
VIEWER = {
    "id": "1",
    "name": "Me",
    "username": "me",
    "entity": "me",
    "email": None,
    "admin": False,
    "flags": "{}",
    "deletedAt": None,
    "apiKeys": {"edges": []},
    "teams": {"edges": [{"node": {"name": "the-team"}}]},
}


@dataclass
class WandbServer:
    """The project "forms" of the user "me", who is in "the-team"."""

    address: str = ""
    views: list[dict[str, Any]] = field(default_factory=list)  # the saved views that it was sent
    sweep: str = ""  # the YAML of the only sweep
    trials: list[dict[str, Any]] = field(default_factory=list)  # commands for an agent, in order
    ended: dict[str, Any] = field(default_factory=dict)  # the last states of runs that an agent has told

    def environment(self) -> dict[str, str]:
        """What a process needs to take this for Weights & Biases."""
        return {"WANDB_BASE_URL": self.address, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """The data for a query."""
        if "upsertView" in query:
            self.views.append(given)
            return {"upsertView": {"view": {"id": "V1", "name": given["name"]}, "inserted": True}}
        if "allViews" in query:
            edges = [{"node": {"id": "V1"}}] if self.views else []
            return {"project": {"allViews": {"edges": edges}} if given["project"] == "forms" else None}
        if "SweepWithRuns" in query:
            return {"project": {"sweep": {"id": "S1", "name": "s1", "config": self.sweep, "runs": {"edges": []}}}}
        if "createAgent" in query:
            return {"createAgent": {"agent": {"id": "A1"}}}
        if "agentHeartbeat" in query:
            busy = json.loads(given["runState"])
            self.ended.update(busy)
            commands = [] if busy else [self.trials.pop(0) if self.trials else {"type": "exit"}]
            return {"agentHeartbeat": {"agent": {"id": "A1"}, "commands": json.dumps(commands)}}
        return {"viewer": VIEWER}


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Serve on a free port while the block runs."""
    server = WandbServer()

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            asked = json.loads(content) if self.path == "/graphql" else {"query": ""}
            body = json.dumps({"data": server.answer(asked["query"], asked.get("variables") or {})}).encode()
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
        server.address = f"http://127.0.0.1:{endpoint.server_port}"
        yield server
        endpoint.shutdown()
        thread.join()
