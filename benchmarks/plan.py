"""Compare the step times that `config plan --measure` predicts with real runs, on processes of this machine.

    python benchmarks/plan.py OUT [--model MODEL] [--ranks 1 2 4] [--stages 0 1 2 3] [--steps 8]

All windows are full, as the prediction takes them to be. The bandwidth between processes is that of an all_reduce of
64 MiB, by 2 (N-1)/N bytes a rank and byte. OUT/report.md holds the table.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path

from speed import minilm

LINK = """
import os, time, torch, torch.distributed as d
torch.set_num_threads(1)
d.init_process_group("gloo")
x = torch.zeros(16 * 2**20)
times = []
for _ in range(6):
    d.barrier(); t = time.perf_counter(); d.all_reduce(x); times.append(time.perf_counter() - t)
n = d.get_world_size()
if d.get_rank() == 0: print(2 * (n - 1) / n * x.nbytes / sorted(times[1:])[2])
d.destroy_process_group()  # a process that ends with gloo's threads still running may abort
"""
WORDS = ("invoice", "total", "amount", "date", "number", "street", "city", "phone", "item", "price", "tax", "paid")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default=None, help="checkpoint of a BERT or LayoutLM; default: MiniLM-L6")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = options.out / "pages.jsonl"
    write_pages(data)
    settings = {
        "model.name_or_path": options.model or minilm(),
        "model.family": "layoutlm",
        "data.format": "jsonl",
        "data.max_length": "128",
        "data.stride": "0",
        "batch.global_batch_size": "16",
        "batch.micro_batch_size": "4",
        "precision.dtype": "fp32",
        "schedule.max_steps": str(options.steps),
        "run.device": "cpu",
    }
    arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
    lines = ["| ranks | ZeRO | predicted s | measured s | error |", "|---|---|---|---|---|"]
    for ranks in options.ranks:
        link = float(launched(ranks, ["-c", LINK]).split()[-1]) if ranks > 1 else 2**30
        for stage in options.stages:
            own = [*arguments, "--deepspeed.zero_stage", str(stage)]
            plan = ["--world-size", str(ranks), "--windows", "64", "--measure", "--link", f"{link / 1e6:.0f}MB"]
            done = run([sys.executable, "-m", "layoutner", "config", "plan", *plan, *own])
            predicted = next(float(line.split()[2]) for line in done.splitlines() if line.startswith("this run: "))
            folder = options.out / f"run-{ranks}-{stage}"
            more = ["--data.train", str(data), "--run.output_dir", str(folder), "--run.overwrite", "true"]
            launched(ranks, ["-m", "layoutner", "train", *own, *more, "--run.log_every", "1", "--run.save_every", "0"])
            steps = [json.loads(line)["time/step_s"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
            measured = statistics.median(steps[2:])
            lines.append(f"| {ranks} | {stage} | {predicted:.3g} | {measured:.3g} | {predicted / measured - 1:+.0%} |")
            print(lines[-1], flush=True)
    (options.out / "report.md").write_text("\n".join(lines) + "\n")


def write_pages(file: Path) -> None:
    """64 pages of more words than a window has room for."""
    rng = random.Random(0)
    with file.open("w", encoding="utf-8") as pages:
        for number in range(64):
            words = []
            for _ in range(140):
                x, y, text = rng.randrange(900), rng.randrange(900), rng.choice(WORDS)
                label = "B-TOTAL" if text == "total" else "O"
                words.append({"text": text, "box": [x, y, x + 50, y + 20], "label": label})
            page = {"document": f"page {number}", "words": words}
            pages.write(json.dumps({**page, "page_size": [1000, 1000]}) + "\n")


def launched(ranks: int, arguments: list[str]) -> str:
    """The output of a program on some ranks of this machine."""
    if ranks == 1:
        return run([sys.executable, *arguments])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    script = ["--no-python", sys.executable, *arguments]
    return run([*torchrun, *script], OMP_NUM_THREADS=str(max(1, len(os.sched_getaffinity(0)) // ranks)))


def run(command: list[str], **environment: str) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
