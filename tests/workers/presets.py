"""Started on 2 ranks by test_presets.py: the training loop of `layoutner train` under many presets, one by one.

    torchrun --nproc-per-node 2 tests/workers/presets.py WORK_FOLDER PRESET,PRESET... DTYPE,DTYPE... ARGUMENT...

The run of a preset in a number format goes to WORK_FOLDER/PRESET-DTYPE.
ARGUMENTs are those of `layoutner train`.
"""

import logging
import sys
import time
from pathlib import Path

from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

from layoutner.distributed.ranks import Ranks
from layoutner.models.parameters import DTYPES
from layoutner.runs.training_run import open_run, train_model
from layoutner.settings.tree import load

# torch computes fp16 on any CPU, only slowly; DeepSpeed asks for a CPU that does it fast. Loss scaling is the same.
CPU_Accelerator.is_fp16_supported = lambda self: True
CPU_Accelerator.supported_dtypes = lambda self: list(DTYPES.values())


def main() -> None:
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    folder, presets, dtypes, *arguments = sys.argv[1:]
    tree: dict[str, dict[str, str]] = {}
    for argument in arguments:
        name, value = argument.removeprefix("--").split("=", 1)
        section, key = name.split(".")
        tree.setdefault(section, {})[key] = value
    ranks = Ranks.join()
    for preset in presets.split(","):
        for dtype in dtypes.split(","):
            start = time.perf_counter()
            tree["deepspeed"] = {"preset": preset}
            tree["precision"] = {"dtype": dtype}
            tree["run"]["output_dir"] = str(Path(folder) / f"{preset}-{dtype}")
            training = open_run(load(None, tree), ranks)
            with training.tracker.finished_with(ranks):
                train_model(training, ranks)
            if ranks.is_rank_zero:
                print(f"{preset} {dtype}: {time.perf_counter() - start:.1f} s", flush=True)
    ranks.close()


if __name__ == "__main__":
    main()
