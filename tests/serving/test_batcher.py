"""The thread that labels for all requests."""

import threading
import time
from collections.abc import Iterator

import pytest

from layoutner.errors import DataError
from layoutner.inference.labelled_page import LabelledPage
from layoutner.pages.document import Document
from layoutner.serving.batcher import MOST_PAGES, Batcher
from layoutner.serving.metrics import Metrics
from layoutner.serving.refusal import Refused
from tests.builders.processes import HANGS_S
from tests.builders.stories import page


class Labelling:
    """A model that waits until it is let go, and keeps the names of the pages of each call."""

    def __init__(self) -> None:
        self.go, self.busy = threading.Event(), threading.Event()
        self.calls: list[list[str]] = []

    def __call__(self, documents: list[Document]) -> list[LabelledPage]:
        self.busy.set()
        assert self.go.wait(HANGS_S)
        self.calls.append([document.name for document in documents])
        if any(document.name == "bad" for document in documents):
            raise DataError("bad: has no page image")
        if any(document.name == "bug" for document in documents):
            raise AssertionError("a bug")
        return [LabelledPage(document, (), ()) for document in documents]


@pytest.fixture
def labelling() -> Labelling:
    return Labelling()


@pytest.fixture
def batcher(labelling: Labelling) -> Iterator[Batcher]:
    made = Batcher(labelling, Metrics())
    yield made
    labelling.go.set()
    made.close()


def later() -> float:
    return time.monotonic() + HANGS_S


def test_requests_that_wait_share_a_call(batcher: Batcher, labelling: Labelling) -> None:
    first = batcher.label([page("first", "a")], later())
    assert labelling.busy.wait(HANGS_S)
    others = [batcher.label([page(f"{n}-{m}", "a") for m in range(n)], later()) for n in range(1, 4)]
    labelling.go.set()
    found = [[one.document.name for one in job.result(HANGS_S)] for job in (first, *others)]
    assert found == [["first"], ["1-0"], ["2-0", "2-1"], ["3-0", "3-1", "3-2"]]
    assert labelling.calls == [["first"], ["1-0", "2-0", "2-1", "3-0", "3-1", "3-2"]]


def test_only_the_request_that_fails_fails(batcher: Batcher, labelling: Labelling) -> None:
    first = batcher.label([page("first", "a")], later())
    assert labelling.busy.wait(HANGS_S)
    jobs = {name: batcher.label([page(name, "a")], later()) for name in ("good", "bad", "bug", "fine")}
    labelling.go.set()
    assert [len(jobs[name].result(HANGS_S)) for name in ("good", "fine")] == [1, 1]
    with pytest.raises(Refused, match="has no page image") as refused:
        jobs["bad"].result(HANGS_S)
    assert refused.value.status == 422
    with pytest.raises(AssertionError, match="a bug"):
        jobs["bug"].result(HANGS_S)
    assert len(first.result(HANGS_S)) == 1


def test_a_call_has_a_largest_size(batcher: Batcher, labelling: Labelling) -> None:
    batcher.label([page("first", "a")], later())
    assert labelling.busy.wait(HANGS_S)
    half = [page("half", "a")] * (MOST_PAGES // 2)
    jobs = [batcher.label(half, later()), batcher.label(half, later()), batcher.label(half, later())]
    jobs.append(batcher.label([page("large", "a")] * (2 * MOST_PAGES), later()))
    labelling.go.set()
    sizes = [MOST_PAGES // 2] * 3 + [2 * MOST_PAGES]
    assert [len(job.result(HANGS_S)) for job in jobs] == sizes
    assert list(map(len, labelling.calls)) == [1, MOST_PAGES, MOST_PAGES // 2, 2 * MOST_PAGES]


def test_nobody_labels_for_those_who_have_left(batcher: Batcher, labelling: Labelling) -> None:
    batcher.label([page("first", "a")], later())
    assert labelling.busy.wait(HANGS_S)
    gone, late, there = (batcher.label([page(name, "a")], later()) for name in ("gone", "late", "there"))
    assert gone.cancel()
    too_late = batcher.label([page("too late", "a")], time.monotonic() - 1)
    labelling.go.set()
    assert len(there.result(HANGS_S)) == len(late.result(HANGS_S)) == 1
    with pytest.raises(Refused) as refused:
        too_late.result(HANGS_S)
    assert refused.value.status == 504
    assert labelling.calls == [["first"], ["late", "there"]]


def test_what_waits_is_labelled_before_the_thread_ends(labelling: Labelling) -> None:
    batcher = Batcher(labelling, Metrics())
    jobs = [batcher.label([page(str(number), "a")], later()) for number in range(9)]
    labelling.go.set()
    batcher.close()
    assert all(job.done() for job in jobs)
