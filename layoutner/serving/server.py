"""The server process: loads the model, answers requests, and stops when it is told to."""

import asyncio
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from layoutner.distributed.machine import available_cpus
from layoutner.inference.model import load_model
from layoutner.serving.address import LOOPBACK_NAMES, is_loopback, shown, taken
from layoutner.serving.app import About, make_app
from layoutner.serving.label_studio import LabelStudio
from layoutner.serving.options import ServeOptions
from layoutner.serving.service import Service

MOST_READERS = 4
IDLE_S = 30.0  # a connection that brings no whole request is closed then
GRACE_S = 5.0  # after the timeout of a request, for its answer to be sent when the server stops
MORE_CONNECTIONS = 256  # than requests in the queue: those that are told that it is full, and idle ones


class _Protocol(H11Protocol):
    """Closes a connection that brings no request in time, or that goes on sending after its answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._look()

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        answers = self.cycle is not None and not self.cycle.response_complete
        if not answers and self.loop.time() - self._idle_since > IDLE_S:
            self.transport.close()
        else:
            self.loop.call_later(IDLE_S / 10, self._look)


class _Server(uvicorn.Server):
    """Says its address once it answers."""

    def __init__(self, config: uvicorn.Config, say: Callable[[], None]) -> None:
        super().__init__(config)
        self._say = say

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._say()


def serve(options: ServeOptions, listener: socket.socket, say: Callable[[str], None]) -> None:
    """Load the model and answer requests until SIGTERM or SIGINT; then requests in flight get their answers.

    Args:
        listener: see `listening`.
        say: prints a line, such as the address once the server answers.

    Raises:
        LayoutnerError: the model cannot be loaded, or another process has begun to listen on the address.
        SystemExit: with code 0, after a signal.
    """
    limits = options.limits
    address = shown(listener, options.host)
    with tempfile.TemporaryDirectory(prefix="layoutner-serve-") as folder:
        model = load_model(options.model, device=options.device, max_image_mib=options.data.max_image_mib)
        readers = min(MOST_READERS, available_cpus())
        service = Service(model, options.data, limits, readers, Path(folder))
        about = About(
            _model_name(options.model), options.normalisers, LOOPBACK_NAMES if is_loopback(options.host) else None
        )
        config = uvicorn.Config(
            make_app(service, about, LabelStudio(service, options.files, about.model)),
            http=_Protocol,
            ws="none",
            loop="asyncio",
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(IDLE_S),
            limit_concurrency=limits.queue + MORE_CONNECTIONS,
            timeout_graceful_shutdown=int(limits.timeout_s + GRACE_S),
        )
        server = _Server(config, lambda: say(f"serving {options.model} on {address} (Ctrl+C stops)"))
        try:
            server.run([listener])
        except OSError as error:
            raise taken(options.host, listener.getsockname()[1], error) from None


def _model_name(folder: Path) -> str:
    """The name of a model: that of its folder, or of the run that it was exported in."""
    resolved = folder.resolve()
    return resolved.parent.name if resolved.name == "export" else resolved.name
