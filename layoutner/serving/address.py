"""The address of a server, which is taken before its model is loaded."""

import ipaddress
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from layoutner.errors import SettingsError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound to an address. SIGTERM and SIGINT end the context, and the process with exit code 0.

    The socket does not listen yet, so that nobody waits for a model that is still being loaded. uvicorn handles the
    signals itself while it runs, and raises them again once it has stopped.

    Raises:
        SettingsError: the address is in use, or not of this machine.
        SystemExit: with code 0, after a signal.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with _bound(host, port) as listener:
            yield listener
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bound(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise SettingsError(f"--port {port}: must be from 0 to {2**16 - 1}")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        listener = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"--host {host}: not an address of this machine: {error}") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise taken(host, port, error) from None
    return listener


def taken(host: str, port: int, error: OSError) -> SettingsError:
    """The error for an address that cannot be bound."""
    return SettingsError(f"--host {host} --port {port}: cannot be bound: {error.strerror}; give another --port")


def shown(listener: socket.socket, host: str) -> str:
    """The address of a server as clients write it."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
