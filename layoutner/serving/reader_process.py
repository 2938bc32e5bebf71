"""A process that reads documents: what strangers have uploaded is decoded here, and nowhere else in the server.

A decoder that crashes or hangs therefore costs one request. The process has the same rights as the server.

    python -m layoutner.serving.reader_process FD

FD is a socket. It brings the `ReaderSettings` first, then one `Upload` after the other. Each gets one `Reading`, or one
`Refused`. The process ends when the other side closes the socket.
"""

import os
import queue
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

from layoutner.serving.reading import ReaderSettings, Reading, Upload, read
from layoutner.serving.refusal import Refused


def main(descriptor: int) -> None:
    """Answer uploads until the socket is closed."""
    connection: Connection[Any, Any] = Connection(descriptor)
    uploads: queue.Queue[Upload] = queue.Queue()
    settings: ReaderSettings = connection.recv()

    def receive() -> None:
        # In a thread of its own, so that the process also ends while it reads, if the server is gone.
        while True:
            try:
                uploads.put(connection.recv())
            except (EOFError, OSError):
                os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    while True:
        upload = uploads.get()
        try:
            answer: Reading | Refused = read(upload, settings)
        except Refused as refused:
            answer = refused
        connection.send(answer)


if __name__ == "__main__":
    main(int(sys.argv[1]))
