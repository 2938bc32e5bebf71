"""A document's way through the server: into a folder, through a reader, through the model, to its answer."""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from layoutner.inference.labelled_page import LabelledPage
from layoutner.inference.model import Model
from layoutner.serving.batcher import Batcher
from layoutner.serving.metrics import Metrics, resident_bytes
from layoutner.serving.options import Limits
from layoutner.serving.readers import Readers
from layoutner.serving.reading import ReaderSettings, Upload
from layoutner.serving.refusal import Refused
from layoutner.settings.data import DataSettings

T = TypeVar("T")

RETRY_AFTER_S = 2.0  # when a client is asked to come back if the server is full


@dataclass(frozen=True)
class Labelled:
    """The labelled pages of a document."""

    pages: list[LabelledPage]
    previews: list[str | None]  # one data URL per page; empty if not asked for


@dataclass(frozen=True)
class Visit:
    """A request that the server works on."""

    folder: Path  # of its own, empty
    until: float  # on the clock of `time.monotonic`, which the event loop has too


class Service:
    """A model with the processes and the thread that feed it. Used from one event loop."""

    def __init__(self, model: Model, data: DataSettings, limits: Limits, readers: int, folder: Path) -> None:
        """Start readers and batcher.

        Args:
            data: how documents are read.
            readers: processes that read documents.
            folder: for uploads, each in a folder of its own while it is worked on.
        """
        self.model, self.limits, self.metrics = model, limits, Metrics()
        self._folder = folder
        self._inside = 0
        self._readers = Readers(ReaderSettings(data, limits.max_pages), readers, self.metrics)
        self._batcher = Batcher(lambda pages: model.predict(pages, batch_size=limits.batch_size), self.metrics)
        self.metrics.gauge("requests_inside", "Requests that are worked on.", lambda: self._inside)
        self.metrics.gauge(
            "resident_memory_bytes",
            "Resident memory of the server, without its readers.",
            lambda: resident_bytes(os.getpid()),
        )

    def close(self) -> None:
        """End readers and batcher, after what they work on."""
        self._readers.close()
        self._batcher.close()

    @asynccontextmanager
    async def visit(self) -> AsyncIterator[Visit]:
        """Context of a request: its place in the server, its folder and its time.

        Raises:
            Refused: 503 = the server is full.
        """
        if self._inside >= self.limits.queue:
            raise Refused(503, f"the server is busy with {self._inside} requests; try again", RETRY_AFTER_S)
        self._inside += 1
        try:
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                yield Visit(Path(folder), time.monotonic() + self.limits.timeout_s)
        finally:
            self._inside -= 1

    async def label(self, path: Path, visit: Visit, previews: bool = False) -> Labelled:
        """Read and label a document.

        Args:
            path: a file in the folder of the visit.

        Raises:
            Refused: 422 = it cannot be used; 504 = it takes too long.
        """
        reading = await self._within(
            asyncio.wrap_future(self._readers.read(Upload(path, previews), visit.until)), visit
        )
        labelling = asyncio.wrap_future(self._batcher.label(reading.documents, visit.until))
        return Labelled(await self._within(labelling, visit), reading.previews)

    async def _within(self, work: Awaitable[T], visit: Visit) -> T:
        try:
            async with asyncio.timeout(max(0.0, visit.until - time.monotonic())):
                return await work
        except TimeoutError:
            limit = self.limits.timeout_s
            raise Refused(
                504, f"the document takes longer than {limit:g} s, the most that this server allows"
            ) from None
