"""Speed of one model with torch and with ONNX Runtime, and how far their probabilities are apart.

    layoutner export RUN MODEL
    layoutner export RUN MODEL-ONNX --onnx
    python benchmarks/backends.py MODEL MODEL-ONNX DATA [--format funsd] [--documents 50] [--batch 8] [--rounds 5]

Both label the same documents in turns, on the CPU. CPU time is that of all threads: on a machine with other work it
says more than the time on the clock.
"""

import argparse
import statistics
import time
from itertools import chain
from pathlib import Path

from layoutner.distributed.ranks import Ranks
from layoutner.documents.roles import read_documents
from layoutner.inference.labeller import Labelled, Labeller
from layoutner.pages.document import Document
from layoutner.planning.batch_plan import MicroBatchLimit
from layoutner.settings.data import DataSettings


def main() -> None:
    """Measure, and print one line per model, and the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("torch", type=Path)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--format", default="funsd")
    parser.add_argument("--documents", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8, help="windows per forward pass")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    settings = DataSettings(format=options.format)
    documents = read_documents(settings, options.data, "test", labels="ignore")[: options.documents]
    ranks = Ranks.alone("cpu")
    labellers = [Labeller(options.torch, ranks), Labeller(options.onnx, ranks)]
    found = [label(labeller, documents, options.batch)[0] for labeller in labellers]  # warms up, too
    measured: list[list[tuple[float, float]]] = [[], []]
    for _ in range(options.rounds):
        for labeller, times in zip(labellers, measured, strict=True):
            times.append(label(labeller, documents, options.batch)[1])
    for name, times in zip(("torch", "onnx"), measured, strict=True):
        wall, cpu = (statistics.median(one) / len(documents) for one in zip(*times, strict=True))
        print(f"{name}: {1 / wall:.2f} pages/s, {1000 * cpu:.0f} ms of CPU per page")
    first, second = (list(chain.from_iterable(answers for _, answers in pages)) for pages in found)
    pairs = list(zip(first, second, strict=True))
    furthest = max(abs(one.probability - other.probability) for one, other in pairs)
    print(
        f"{len(pairs)} words: {sum(one.label != other.label for one, other in pairs)} labels differ, "
        f"probabilities by at most {furthest:.1e}"
    )


def label(labeller: Labeller, documents: list[Document], batch: int) -> tuple[Labelled, tuple[float, float]]:
    """The labelled documents, and the seconds on the clock and of the CPU that they took."""
    found: Labelled = []
    wall, cpu = time.perf_counter(), time.process_time()
    labeller.label(documents, MicroBatchLimit(batch), found.extend)
    return found, (time.perf_counter() - wall, time.process_time() - cpu)


if __name__ == "__main__":
    main()
