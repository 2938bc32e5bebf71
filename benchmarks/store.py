"""Memory and start-up of one rank on stores of different sizes, and the speed of building one.

    python benchmarks/store.py FOLDER

Prints Markdown tables. A store of N windows here is one shard of made-up pages under many names (hard links), with an
index over all of them: what a rank maps, opens and reads is the same, and neither disk nor time is needed for N pages.
A rank trains a tiny network, whose memory does not hide that of the windows. Building is measured on a file of made-up
pages, from reading it to the finished store.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.update(DS_ACCELERATOR="cpu", TOKENIZERS_PARALLELISM="false")

import numpy as np

from layoutner.demo.checkpoint import make_checkpoint
from layoutner.demo.forms import make_forms
from layoutner.documents.roles import read_documents
from layoutner.documents.store import INDEX_FILE, MANIFEST_FILE, StoreManifest, shard_file
from layoutner.files.arrays import MappedArrays, write_arrays
from layoutner.files.artefact import FileEntry
from layoutner.settings.data import DataSettings

PAGES, WORDS = 2000, 250  # of one shard; a page is one window
SHARDS = 2  # of the store whose building is measured
TYPES = ("DATE", "NAME", "TOTAL")


def write_pages(file: Path, pages: int, vocabulary: list[str]) -> None:
    """Made-up pages in jsonl."""
    rng = random.Random(0)
    tags = ["O", *(f"B-{kind}" for kind in TYPES)]
    with file.open("w", encoding="utf-8") as out:
        for number in range(pages):
            words = []
            for at in range(WORDS):
                x, y = 60 * (at % 15), 25 * (at // 15)
                words.append({"text": rng.choice(vocabulary), "box": [x, y, x + 50, y + 20], "label": rng.choice(tags)})
            page = {"document": f"page-{rng.getrandbits(32):08x}-{number}", "page_size": [1000, 1000], "words": words}
            out.write(json.dumps(page) + "\n")


def build(file: Path, model: Path, out: Path, processes: int) -> tuple[float, float]:
    """Build a store, with the start of Python and of torch; returns its seconds, and those of all CPUs together."""
    command = [sys.executable, "-m", "layoutner", "data", "build", file, "--data.format=jsonl", "--data.max_length=512"]
    command += [f"--model.name_or_path={model}", "--out", out, f"--processes={processes}"]
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return time.monotonic() - start, cpu


def multiply(store: Path, out: Path, windows: int) -> None:
    """A store of many windows from one of a single shard."""
    out.mkdir()
    manifest = StoreManifest.read(store / MANIFEST_FILE)
    (entry,) = manifest.shards
    assert entry.windows == entry.documents == PAGES
    times = -(-windows // entry.windows)
    for number in range(times):
        os.link(store / shard_file(0), out / shard_file(number))
    one = MappedArrays(store / INDEX_FILE)
    order = np.random.default_rng(0).permutation(times * entry.windows)
    index: dict[str, Any] = {name: np.tile(array, (times, 1)[: array.ndim])[order] for name, array in one.items()}
    numbers = np.arange(len(order), dtype=np.int32)
    # One window per page: both are in the same random order.
    offsets = np.repeat(np.arange(times, dtype=np.int32) * entry.windows, entry.windows)
    places = np.tile(one["window_places"], times) + offsets
    index["document_places"] = index["window_places"] = places[order].astype(np.int32)
    # All pages are different ones, for what is counted or sorted by page.
    digests = np.random.default_rng(1).integers(0, 2**63, len(order)).astype(np.uint64)
    index |= {"window_documents": numbers, "unit_roots": numbers, "page_digests": digests}
    write_arrays(out / INDEX_FILE, index)
    shards = (entry,) * times
    manifest.model_copy(update={"shards": shards, "index": FileEntry.of(out / INDEX_FILE)}).write(out / MANIFEST_FILE)


def memory_mib() -> dict[str, float]:
    """Resident memory of this process: all of it, and the part that is its own."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith(" kB")}
    return {"resident": sizes["VmRSS"], "own": sizes["RssAnon"]}


def rank(store: Path, model: Path, steps: int) -> None:
    """What one rank does: open the store, and train."""
    from layoutner.distributed.ranks import Ranks
    from layoutner.engine.engine import Engine
    from layoutner.models.loading import build as build_model
    from layoutner.settings.tree import load
    from layoutner.training.global_batch import global_batches
    from layoutner.training.plan import make_plan
    from layoutner.training.step import optimizer_step

    settings = load(
        None,
        {
            "model": {"name_or_path": str(model)},
            "data": {"train": str(store), "max_length": "512"},
            "batch": {"global_batch_size": "16", "micro_batch_size": "8"},
            "schedule": {"epochs": "1"},
            "precision": {"dtype": "fp32"},
        },
    )
    start, cpu = time.monotonic(), time.process_time()
    plan = make_plan(settings, 1)
    plan.describe()
    pages, identity = plan.training_pages, plan.identity
    seconds, cpu = time.monotonic() - start, time.process_time() - cpu
    assert (len(pages), "training_windows" in identity.must_match) == (len(plan.corpus.train), True)
    del pages
    ranks = Ranks.join()
    engine = Engine(build_model(plan.pretrained, plan.corpus.labels.tags, 0.0), plan.ds_config, plan.optimizer, ranks)
    found = []
    start = time.monotonic()
    for step, batch in enumerate(islice(global_batches(plan, ranks, 0), steps)):
        optimizer_step(plan, engine, batch, ranks)
        if step + 1 in (steps // 2, steps):
            found.append(memory_mib())
    each = (time.monotonic() - start) / steps
    windows = len(plan.windows["train"])
    print(
        json.dumps(
            {
                "windows": windows,
                "start_s": seconds,
                "start_cpu_s": cpu,
                "half": found[0],
                "end": found[1],
                "step_s": each,
            }
        )
    )
    ranks.close()


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--windows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    options = parser.parse_args()
    folder: Path = options.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make_forms(folder / "forms", train=24, test=8, seed=7)
    make_checkpoint(folder / "model", folder / "forms", "layoutlm", seed=1, positions=512)
    forms = read_documents(DataSettings(), folder / "forms", "train")
    vocabulary = sorted({word for form in forms for word in form.words})
    write_pages(folder / "one.jsonl", PAGES, vocabulary)
    write_pages(folder / "many.jsonl", SHARDS * PAGES, vocabulary)
    build(folder / "one.jsonl", folder / "model", folder / "one", 1)
    print("| processes | s | CPU s | words/s | words per CPU s |\n|---:|---:|---:|---:|---:|")
    for processes in options.processes:
        seconds, cpu = build(folder / "many.jsonl", folder / "model", folder / f"store-{processes}", processes)
        words = SHARDS * PAGES * WORDS
        print(f"| {processes} | {seconds:.1f} | {cpu:.1f} | {words / seconds:.0f} | {words / cpu:.0f} |", flush=True)
    print("\n| windows | start, s | of it CPU, s | resident after half, MiB | after all, MiB | own, MiB | s per step |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for windows in options.windows:
        multiply(folder / "one", folder / f"many-{windows}", windows)
        command = [sys.executable, __file__, "rank", folder / f"many-{windows}", folder / "model", str(options.steps)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        sizes = f"{row['half']['resident']:.0f} | {row['end']['resident']:.0f} | {row['end']['own']:.0f}"
        start = f"{row['start_s']:.2f} | {row['start_cpu_s']:.2f}"
        print(f"| {row['windows']} | {start} | {sizes} | {row['step_s']:.3f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        rank(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
