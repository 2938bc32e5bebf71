"""Which DeepSpeed configs an engine starts and steps with on the CPU.

    torchrun --nproc-per-node 1 tests/workers/components.py IN.json OUT.json

IN.json: a list of configs. OUT.json: for each, "" or the text of the error.
"""

import json
import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch

# As in layoutner's engine: an op for inference that a compiler builds, and whose build lock a killed process leaves.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def start(config: dict[str, Any]) -> str:
    model = torch.nn.Linear(4, 4)
    try:
        engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
        for _ in range(2):
            data = torch.ones(1, 4, dtype=next(engine.module.parameters()).dtype)
            engine.backward(engine(data).float().sum())
            engine.step()
    except Exception as error:  # whatever it raises, it has refused
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    configs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps([start(config) for config in configs]), encoding="utf-8")


if __name__ == "__main__":
    main()
