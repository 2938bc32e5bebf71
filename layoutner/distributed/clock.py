"""Where the time of a rank goes."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch

# data: waiting for micro-batches. communication: collectives of DeepSpeed and of the loss, with the waiting for other
# ranks in them.
Part = Literal["data", "forward", "backward", "communication", "optimizer", "evaluation", "saving", "other"]
PARTS: tuple[Part, ...] = get_args(Part)


class Clock:
    """Seconds that this rank has spent on each part. Parts may be nested: the inner one's time is not the outer one's.

    On a GPU the time is that between CUDA events on its current stream. Nothing waits for them. What only the CPU does
    while the GPU still computes takes no time of its own, and a collective on a stream of its own, beside the
    computation, takes none either.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._stream = torch.cuda.current_stream(device) if self._on_gpu else None
        self._spans: deque[tuple[Part, Any, Any]] = deque()  # part, its begin and end; on a GPU not yet over, maybe
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._part: Part = "other"
        self._since = self._now()

    def _now(self) -> Any:
        """A time in seconds, or an event on the GPU."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    @contextmanager
    def part(self, part: Part) -> Iterator[None]:
        """Time inside the block belongs to this part."""
        if self._on_gpu and torch.cuda.current_stream() != self._stream:
            yield
            return
        before = self._part
        self._begin(part)
        try:
            yield
        finally:
            self._begin(before)

    def _begin(self, part: Part) -> None:
        now = self._now()
        self._spans.append((self._part, self._since, now))
        self._part, self._since = part, now
        while self._spans and (not self._on_gpu or self._spans[0][2].query()):
            self._count(*self._spans.popleft())

    def _count(self, part: Part, begin: Any, end: Any) -> None:
        self._seconds[part] += begin.elapsed_time(end) / 1000 if self._on_gpu else end - begin

    def seconds(self) -> dict[Part, float]:
        """Seconds of each part since the clock was made. Waits for the GPU."""
        self._begin(self._part)
        if self._on_gpu:
            torch.cuda.synchronize()
        while self._spans:
            self._count(*self._spans.popleft())
        return dict(self._seconds)
