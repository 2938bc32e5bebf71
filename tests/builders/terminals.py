"""A terminal, and what is written to it with all escape codes."""

import fcntl
import os
import pty
import struct
import termios
import threading
from pathlib import Path
from select import select
from typing import TextIO


class Terminal:
    """A terminal of so many columns and 40 rows. As a context it is closed at the end."""

    def __init__(self, columns: int = 100) -> None:
        self._far, self._near = pty.openpty()
        fcntl.ioctl(self._near, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.path = Path(os.ttyname(self._near))
        self._written = b""
        self._closed = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while (ready := select([self._far], [], [], 0.05)[0]) or not self._closed.is_set():
            if ready:
                self._written += os.read(self._far, 65536)

    def open(self, encoding: str = "utf-8") -> TextIO:
        """A stream that writes to it."""
        return self.path.open("w", encoding=encoding, errors="backslashreplace")

    def close(self) -> str:
        """Everything that was written, with line feeds as programs write them."""
        self._closed.set()
        self._reader.join()
        return self._written.decode("utf-8").replace("\r\n", "\n")

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        os.close(self._near)
        os.close(self._far)
