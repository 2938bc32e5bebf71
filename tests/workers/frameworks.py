"""What the real Trainer and the real Accelerator make of DeepSpeed configs: up to deepspeed.initialize, and no further.

    torchrun --nproc-per-node 1 tests/workers/frameworks.py IN.json OUT.json

IN.json: a list of [framework, config]. OUT.json: for each, the config that DeepSpeed would be started with, or the text
of the error.
"""

import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import deepspeed
import torch
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import DummyOptim, DummyScheduler
from deepspeed.runtime.config import DeepSpeedConfig
from transformers import BertConfig, BertForTokenClassification, Trainer, TrainingArguments

MICRO_BATCH, LR, STEPS = 4, 0.001, 10  # as in the configs of test_frameworks.py: the Trainer refuses other numbers
DATA = [{"input_ids": [1, 2], "labels": [0, 1]}] * MICRO_BATCH


class Started(Exception):
    """The engine would be built now."""


def initialize(**arguments: Any) -> None:
    """Stands in for deepspeed.initialize: keep the config, if DeepSpeed takes it."""
    DeepSpeedConfig(arguments["config_params"])
    raise Started(arguments["config_params"])


def start_trainer(config: dict[str, Any], model: torch.nn.Module, folder: str) -> None:
    arguments = TrainingArguments(
        folder,
        deepspeed=config,
        per_device_train_batch_size=MICRO_BATCH,
        learning_rate=LR,
        max_steps=STEPS,
        report_to="none",
        disable_tqdm=True,
    )
    Trainer(model=model, args=arguments, train_dataset=DATA).train()


def start_accelerator(config: dict[str, Any], model: torch.nn.Module) -> None:
    """As accelerate asks for it: a dummy for whatever the config names itself."""
    accelerator = Accelerator(deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=config))
    objects: list[Any] = [model, torch.utils.data.DataLoader(DATA, batch_size=MICRO_BATCH)]
    objects.append(DummyOptim(model.parameters()) if "optimizer" in config else torch.optim.SGD(model.parameters()))
    if "scheduler" in config:
        objects.append(DummyScheduler(objects[-1], total_num_steps=STEPS, warmup_num_steps=2))
    accelerator.prepare(*objects)


def main() -> None:
    deepspeed.initialize = initialize
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = BertForTokenClassification(BertConfig(vocab_size=4, **sizes))
    gc.freeze()  # the Trainer collects garbage at each start
    results: list[object] = []
    with tempfile.TemporaryDirectory() as folder:
        for framework, config in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
            AcceleratorState._reset_state()
            try:
                if framework == "hf-trainer":
                    start_trainer(config, model, folder)
                else:
                    start_accelerator(config, model)
            except Started as started:
                results.append(started.args[0])
            except Exception as error:  # whatever it raises, it has refused
                results.append(f"{type(error).__name__}: {error}")
    Path(sys.argv[2]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
