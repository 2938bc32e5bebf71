"""One thread that labels the pages of all requests that wait, together."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from layoutner.errors import LayoutnerError
from layoutner.inference.labelled_page import LabelledPage
from layoutner.pages.document import Document
from layoutner.serving.metrics import Metrics
from layoutner.serving.refusal import Refused, one_sentence

MOST_PAGES = 64  # of one call of the model; a request with more is labelled alone

Label = Callable[[list[Document]], list[LabelledPage]]


class Batcher:
    """Labels the pages of requests. What arrives while the model is busy shares its next call."""

    def __init__(self, label: Label, metrics: Metrics) -> None:
        """Start the thread.

        Args:
            label: labels pages, in their order. Only this thread calls it.
        """
        self._label, self._metrics = label, metrics
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="labelling", daemon=True)
        self._thread.start()
        metrics.gauge("labelling_queue", "Requests that wait for the model.", self._jobs.qsize)

    def label(self, documents: Sequence[Document], until: float) -> "Future[list[LabelledPage]]":
        """Label the pages of one request.

        Args:
            until: on the clock of `time.monotonic`; a request that waits longer is not labelled any more.

        Returns:
            A future that raises `Refused` if the pages cannot be labelled.
        """
        job = _Job(list(documents), until, Future())
        self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Label what waits, and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        held: _Job | None = None  # did not fit into the call before
        open_ = True
        while open_ or held is not None:
            job = held or self._jobs.get()
            held = None
            if job is None:
                break
            jobs, pages = [job], len(job.documents)
            while held is None:
                try:
                    more = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    open_ = False
                    break
                if pages + len(more.documents) > MOST_PAGES:
                    held = more
                else:
                    jobs.append(more)
                    pages += len(more.documents)
            self._answer([one for one in jobs if one.wanted()])

    def _answer(self, jobs: "list[_Job]") -> None:
        if not jobs:
            return
        since = time.monotonic()
        try:
            pages = self._label([document for job in jobs for document in job.documents])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(_refusal(error))
            else:  # one of them is to blame, and only that one fails
                for job in jobs:
                    self._answer([job])
            return
        self._metrics.add("batches", 1)
        self._metrics.add("pages", len(pages))
        self._metrics.add("words", sum(len(page.words) for page in pages))
        self._metrics.add("labelling_seconds", time.monotonic() - since)
        for job in jobs:
            own, pages = pages[: len(job.documents)], pages[len(job.documents) :]
            job.future.set_result(own)


@dataclass(frozen=True)
class _Job:
    documents: list[Document]
    until: float
    future: "Future[list[LabelledPage]]"

    def wanted(self) -> bool:
        """Whether somebody still waits for the answer. It can no longer be cancelled then."""
        if not self.future.set_running_or_notify_cancel():
            return False
        if time.monotonic() > self.until:
            self.future.set_exception(Refused(504, "labelling takes longer than this server allows"))
            return False
        return True


def _refusal(error: Exception) -> Exception:
    """What the client is told; an error that is no fault of the document stays as it is, and is a bug."""
    return Refused(422, one_sentence(str(error))) if isinstance(error, LayoutnerError) else error
