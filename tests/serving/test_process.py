"""The server as a process: slow clients, a full queue, readers that are gone, and how it starts and stops."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from layoutner.serving import options
from tests.builders.pages import page
from tests.builders.processes import HANGS_S, call, free_port
from tests.builders.servers import ServerProcess, error_of, serving

BODY = json.dumps(page("a", ["one", "two"])).encode()


@contextmanager
def half_sent(server: ServerProcess, length: int = len(BODY)) -> Iterator[socket.socket]:
    """A request whose body is not complete yet."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANGS_S) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode() + BODY[:10])
        yield connection


def received(connection: socket.socket) -> tuple[int, str]:
    """Status and body of the answer on a connection that the server then closes."""
    answer = b""
    while part := connection.recv(65_536):
        answer += part
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


def wait_for(server: ServerProcess, name: str, value: float) -> None:
    until = time.monotonic() + HANGS_S
    while server.metrics()[name] != value:
        assert time.monotonic() < until
        time.sleep(0.02)


def takes_connections(server: ServerProcess) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port)).close()
    except ConnectionRefusedError:
        return False
    return True


def readers(server: ServerProcess) -> list[int]:
    """Process ids of the readers."""
    own = server.process.pid
    return [int(one) for one in Path(f"/proc/{own}/task/{own}/children").read_text().split()] + [
        int(one)
        for task in Path(f"/proc/{own}/task").iterdir()
        if task.name != str(own)
        for one in (task / "children").read_text().split()
    ]


def test_a_body_that_never_ends_is_timed_out(model_folder: Path, tmp_path: Path) -> None:
    with serving(model_folder, tmp_path, "--timeout", 2) as server:
        with half_sent(server) as connection:
            status, body = received(connection)
        assert status == 408
        assert json.loads(body) == {"error": "the body did not arrive within the time that this server allows"}
        assert server.metrics()["layoutner_requests_inside"] == 0
        with half_sent(server):
            wait_for(server, "layoutner_requests_inside", 1)
        wait_for(server, "layoutner_requests_inside", 0)  # a client that leaves


@pytest.mark.slow
def test_a_request_whose_head_never_ends_is_closed(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANGS_S) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: local")
        assert connection.recv(100) == b""


def test_a_full_server_says_when_to_come_back(model_folder: Path, tmp_path: Path) -> None:
    with serving(model_folder, tmp_path, "--queue", 2) as server, half_sent(server) as one, half_sent(server) as two:
        wait_for(server, "layoutner_requests_inside", 2)
        response = server.client.post("/predict", content=BODY)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert error_of(response) == "the server is busy with 2 requests; try again"
        assert server.client.get("/health").status_code == 200
        for connection in (one, two):
            connection.sendall(BODY[10:])
            assert received(connection)[0] == 200
        assert server.client.post("/predict", content=BODY).status_code == 200


def test_a_reader_that_crashes_costs_one_request_at_most(model_folder: Path, tmp_path: Path) -> None:
    with serving(model_folder, tmp_path) as server:
        assert server.client.post("/predict", content=BODY).status_code == 200
        before = readers(server)
        assert before
        for process in before:
            os.kill(process, signal.SIGKILL)
        with ThreadPoolExecutor(8) as clients:
            responses = list(clients.map(lambda _: server.client.post("/predict", content=BODY), range(16)))
        failed = [response for response in responses if response.status_code != 200]
        assert len(failed) <= len(before)
        assert all("crash" in error_of(response) for response in failed)
        assert not set(before) & set(readers(server))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_is_answered_before_the_server_stops(
    number: int, model_folder: Path, tmp_path: Path
) -> None:
    with serving(model_folder, tmp_path) as server, half_sent(server) as connection:
        wait_for(server, "layoutner_requests_inside", 1)
        left = readers(server)
        server.process.send_signal(number)
        until = time.monotonic() + HANGS_S
        while takes_connections(server):
            assert time.monotonic() < until
            time.sleep(0.02)
        connection.sendall(BODY[10:])
        status, body = received(connection)
        assert status == 200
        assert json.loads(body)["document"] == "a"
        assert server.wait() == 0
        assert len(server.said.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []
        assert not any(Path(f"/proc/{process}").exists() for process in left)


def test_a_server_that_stops_does_not_wait_for_ever(model_folder: Path, tmp_path: Path) -> None:
    with serving(model_folder, tmp_path, "--timeout", 2) as server, half_sent(server) as connection:
        wait_for(server, "layoutner_requests_inside", 1)
        assert server.stop() == 0
        assert received(connection)[0] == 408
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_nothing_of_a_killed_server_is_in_the_way_of_the_next(model_folder: Path, tmp_path: Path) -> None:
    with serving(model_folder, tmp_path) as server, half_sent(server):
        assert server.client.post("/predict", content=BODY).status_code == 200
        left = readers(server)
        port = server.port
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    until = time.monotonic() + HANGS_S
    while any(alive(process) for process in left):
        assert time.monotonic() < until
        time.sleep(0.05)
    with serving(model_folder, tmp_path, "--port", port) as again:
        assert again.port == port
        assert again.client.post("/predict", content=BODY).status_code == 200


def alive(process: int) -> bool:
    """Whether a process runs; one that nobody waits for is a zombie."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_what_is_wrong_is_said_before_the_model_is_loaded(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> str:
        code, out, err = call(capsys, "serve", *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("layoutner: error: ")
        return err

    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port()))
        other.listen()
        port = other.getsockname()[1]
        message = refused(model_folder, "--port", port)
        assert f"--port {port}: cannot be bound: Address already in use; give another --port" in message
    assert "no such folder" in refused(tmp_path / "nothing")
    assert "--host 203.0.113.1" in refused(model_folder, "--host", "203.0.113.1")
    assert "--port 70000: must be from 0 to 65535" in refused(model_folder, "--port", 70000)
    assert "--normalise TOTAL" in refused(model_folder, "--normalise", "TOTAL")
    assert "end with /" in refused(model_folder, "--allow-url", "https://host")
    assert "--documents" in refused(model_folder, "--documents", tmp_path / "nothing")
    message = refused(tmp_path / "nothing", "--queue", 0, "--timeout", "nan")
    assert "no such folder" in message
    assert "--timeout nan: must be more than 0" in message
    monkeypatch.setitem(options.PACKAGES, "no_such_module", "no-such-package")
    assert "needs no-such-package: pip install 'layoutner[serve]'" in refused(model_folder)


def test_a_normaliser_of_a_type_that_the_model_lacks(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "serve", model_folder, "--port", 0, "--normalise", "DATE=date")
    assert code == 2
    assert "the model has no such type" in err
