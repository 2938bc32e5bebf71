"""What the server counts, in the text format of Prometheus."""

import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

PREFIX = "layoutner"
BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # upper bounds of the latency histogram
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

HELP = {
    "pages": "Pages that were labelled.",
    "words": "Words that were labelled.",
    "batches": "Calls of the model; requests that wait at the same time share one.",
    "reading_seconds": "Seconds that readers were busy with documents: PDF, images, OCR.",
    "labelling_seconds": "Seconds that the model was busy.",
    "reader_restarts": "Readers that crashed or took too long, and were replaced.",
}


class Metrics:
    """Counters and gauges of a server. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()  # (route, status) -> requests
        self._latencies: Counter[float] = Counter()  # upper bound of the bucket -> requests
        self._latency_s = 0.0  # sum
        self._counts: dict[str, float] = dict.fromkeys(HELP, 0)
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def add(self, name: str, value: float) -> None:
        """Add to a counter, a key of `HELP`."""
        with self._lock:
            self._counts[name] += value

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a value that is read whenever the metrics are."""
        self._gauges[name] = (text, read)

    def request(self, route: str, status: int, seconds: float, timed: bool) -> None:
        """Count an answered request.

        Args:
            timed: whether its latency counts: for routes that label documents.
        """
        with self._lock:
            self._requests[route, status] += 1
            if timed:
                self._latency_s += seconds
                self._latencies[next((bound for bound in BUCKETS_S if seconds <= bound), float("inf"))] += 1

    def text(self) -> str:
        """All metrics, one per line."""
        with self._lock:
            requests, latencies, counts = dict(self._requests), dict(self._latencies), dict(self._counts)
            latency_s = self._latency_s
        lines = _head("requests_total", "counter", "Answered requests.")
        lines += [
            f'{PREFIX}_requests_total{{route="{route}",status="{status}"}} {count}'
            for (route, status), count in sorted(requests.items())
        ]
        lines += _head("request_seconds", "histogram", "Seconds from a request to its answer, of labelling routes.")
        below = 0
        for bound in (*BUCKETS_S, float("inf")):
            below += latencies.get(bound, 0)
            shown = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f'{PREFIX}_request_seconds_bucket{{le="{shown}"}} {below}')
        lines += [f"{PREFIX}_request_seconds_sum {latency_s:.6f}", f"{PREFIX}_request_seconds_count {below}"]
        for name, value in counts.items():
            lines += [*_head(f"{name}_total", "counter", HELP[name]), f"{PREFIX}_{name}_total {_number(value)}"]
        for name, (text, read) in self._gauges.items():
            lines += [*_head(name, "gauge", text), f"{PREFIX}_{name} {_number(read())}"]
        return "\n".join(lines) + "\n"


def resident_bytes(process: int) -> int:
    """Resident memory of a process in bytes; 0 if it has ended, or on systems without /proc."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {PREFIX}_{name} {text}", f"# TYPE {PREFIX}_{name} {kind}"]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6f}"
