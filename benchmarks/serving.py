"""Pages per second of `predict` in this process and of `layoutner serve` with 1 and 8 clients, memory, and start.

    layoutner demo
    layoutner predict runs/demo/forms --model runs/demo --output pages.jsonl
    python benchmarks/serving.py runs/demo pages.jsonl
    python benchmarks/serving.py runs/demo runs/demo/forms/testing_data/images

INPUT is a jsonl file, each line of which is a request, or a folder of images or PDFs. Clients send as fast as they are
answered. Memory is that of the server and of its readers, after 100 requests, and after as many more as come in an hour
at one every three seconds. Server, readers and clients share the machine.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

HOUR = 1200  # requests: one every three seconds
WARM_UP = 100


def main() -> None:
    """Measure, and print one line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("input", type=Path)
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement (default: 20)")
    parser.add_argument("--requests", type=int, default=HOUR, help=f"of the memory measurement (default: {HOUR})")
    options = parser.parse_args()
    bodies = requests_of(options.input)
    print(f"{len(bodies)} different requests, {os.cpu_count()} CPUs")
    print(f"predict: {predict(options.model, options.input, options.seconds):.2f} pages/s")
    with served(options.model) as (client, start_s):
        since = time.monotonic()
        pages_of(client, bodies[0])
        print(f"start: {start_s:.1f} s until the server answers, {time.monotonic() - since:.2f} s for the first page")
        for clients in (1, 8):
            rate, middle, late = load(client, bodies, clients, options.seconds)
            print(f"serve, {clients} client(s): {rate:.2f} pages/s, {middle * 1e3:.0f} ms, 95 %: {late * 1e3:.0f} ms")
        batches = metric(client, "pages_total") / metric(client, "batches_total")
        print(f"{batches:.2f} pages in a call of the model")
    with served(options.model) as (client, _), ThreadPoolExecutor(4) as pool:
        for count in (WARM_UP, options.requests):
            list(pool.map(lambda body: pages_of(client, body), itertools.islice(itertools.cycle(bodies), count)))
            own, readers = (metric(client, f"{name}resident_memory_bytes") / 2**20 for name in ("", "readers_"))
            print(f"memory after {count} more requests: server {own:.1f} MiB, readers {readers:.1f} MiB")


def requests_of(path: Path) -> list[bytes]:
    """The body of each request."""
    if path.is_dir():
        return [file.read_bytes() for file in sorted(path.iterdir())]
    pages = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [json.dumps({key: value for key, value in page.items() if key != "image"}).encode() for page in pages]


def predict(model: Path, path: Path, seconds: float) -> float:
    """Pages per second of reading and labelling in one process, all pages of the input together."""
    import layoutner

    opened = layoutner.load_model(model, device="cpu")
    opened.predict(path)
    since, pages = time.monotonic(), 0
    while time.monotonic() - since < seconds:
        pages += len(opened.predict(path))
    return pages / (time.monotonic() - since)


@contextmanager
def served(model: Path) -> Iterator[tuple[httpx.Client, float]]:
    """A client of a server, and the seconds that it took to start."""
    command = [sys.executable, "-m", "layoutner", "serve", str(model), "--port", "0", "--device", "cpu"]
    since = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": folder}) as process,
    ):
        assert process.stdout is not None
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address is not None
        try:
            with httpx.Client(base_url=address[0], timeout=None, trust_env=False) as client:
                yield client, time.monotonic() - since
        finally:
            process.terminate()


def pages_of(client: httpx.Client, body: bytes) -> int:
    """Number of pages of an answer."""
    return len(json.loads(client.post("/predict", content=body).raise_for_status().text)["pages"])


def load(client: httpx.Client, bodies: list[bytes], clients: int, seconds: float) -> tuple[float, float, float]:
    """Pages per second, and the median and the 95th percentile of the seconds of a request."""
    until = time.monotonic() + seconds
    times: list[float] = []
    pages: list[int] = []
    lock = threading.Lock()
    source = itertools.cycle(bodies)

    def run() -> None:
        while (since := time.monotonic()) < until:
            with lock:
                body = next(source)
            found = pages_of(client, body)
            with lock:
                times.append(time.monotonic() - since)
                pages.append(found)

    began = time.monotonic()
    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ordered = sorted(times)
    return sum(pages) / (time.monotonic() - began), ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)]


def metric(client: httpx.Client, name: str) -> float:
    """A value of /metrics."""
    found = re.search(rf"^layoutner_{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


if __name__ == "__main__":
    main()
