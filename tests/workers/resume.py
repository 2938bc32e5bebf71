"""Started on 1, 2 or 3 ranks by test_resume.py: runs that save, and runs that go on from what others saved.

    torchrun --nproc-per-node N tests/workers/resume.py WORK_FOLDER JOBS.json

A job is a dictionary of settings; all ranks train it, and its metrics.jsonl says what it computed.
"""

import json
import logging
import sys
from pathlib import Path

from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

from layoutner.distributed.ranks import Ranks
from layoutner.runs.training_run import open_run, train_model
from layoutner.settings.tree import load

# torch computes fp16 on any CPU, only slowly; DeepSpeed asks for a CPU that does it fast. Loss scaling is the same.
CPU_Accelerator.is_fp16_supported = lambda self: True


def main() -> None:
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    folder, jobs = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    ranks = Ranks.join()
    for job in jobs:
        values = {
            "model.name_or_path": str(folder / "checkpoint"),
            "model.dropout": "0.1",
            "data.format": "unilm",
            "data.train": str(folder / "data"),
            "data.max_length": "128",
            "data.stride": "0",
            "batch.global_batch_size": "6",
            "batch.micro_batch_size": "1",
            "optimizer.lr": "1e-3",
            "optimizer.weight_decay": "0.1",
            "optimizer.max_grad_norm": "0.5",
            "schedule.max_steps": "5",
            "schedule.warmup_steps": "1",
            "run.log_every": "1",
            "precision.initial_scale_power": "8",
            "precision.loss_scale_window": "2",
            **job,
        }
        tree: dict[str, dict[str, str]] = {}
        for name, value in values.items():
            section, key = name.split(".")
            tree.setdefault(section, {})[key] = value
        training = open_run(load(None, tree), ranks)
        with training.tracker.finished_with(ranks):
            train_model(training, ranks)
    ranks.close()


if __name__ == "__main__":
    main()
