"""One contender of speed.py, on every rank of a process group. Rank 0 prints tokens per second and the peak memory.

torchrun contenders.py NAME DATA FORMAT MODEL GLOBAL_BATCH MICRO_BATCH WARM_UP STEPS LENGTH
"""

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
import torch
from torch import distributed

from layoutner.corpus.batches import collate, step_windows
from layoutner.corpus.windows import Window
from layoutner.distributed.machine import peak_memory_bytes
from layoutner.distributed.ranks import Ranks
from layoutner.engine.engine import Engine
from layoutner.models.families import model_inputs
from layoutner.models.loading import build
from layoutner.models.parameters import decay_groups
from layoutner.settings.tree import load
from layoutner.training.global_batch import global_batches
from layoutner.training.plan import Plan, make_plan
from layoutner.training.step import optimizer_step

NAME, DATA, FORMAT, MODEL = sys.argv[1:5]
GLOBAL, MICRO, WARM_UP, STEPS, LENGTH = map(int, sys.argv[5:10])
RANK, RANKS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
SEED, ROW = 42, 256

# Do not build this op, which training never calls: it needs a compiler and a minute.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

Step = Callable[[int], int]  # number of an optimizer step -> real tokens of this rank


def main() -> None:
    settings = load(
        None,
        {
            "model": {"name_or_path": MODEL, "family": "layoutlm", "dropout": "0.1"},
            "data": {
                "format": FORMAT,
                "train": DATA,
                "max_length": str(LENGTH),
                "stride": str(LENGTH // 4),
                "bad_pages": "skip",
                "invalid_boxes": "clamp",
            },
            "batch": {"global_batch_size": str(GLOBAL), "micro_batch_size": str(MICRO)},
            "schedule": {"max_steps": str(WARM_UP + STEPS)},
            "precision": {"dtype": "fp32"},
            "deepspeed": {"zero_stage": "1"},
        },
    )
    with Ranks.join(device="cpu") as ranks:
        plan = make_plan(settings, RANKS)
        torch.manual_seed(SEED)
        model = build(plan.pretrained, plan.corpus.labels.tags, 0.1, "rank-free" if NAME == "layoutner" else "torch")
        if NAME.startswith("hf"):
            seconds, tokens = trainer(plan, model)
        else:
            if NAME != "layoutner":
                model.set_attn_implementation("sdpa")
            step = {"layoutner": layoutner, "accelerate": accelerate, "script": script, "limit": limit}[NAME](
                plan, model, ranks
            )
            seconds, tokens = 0.0, 0
            for number in range(WARM_UP + STEPS):
                distributed.barrier()
                start = time.perf_counter()
                done = step(number)
                if number >= WARM_UP:
                    seconds, tokens = seconds + time.perf_counter() - start, tokens + done
        total = ranks.all_reduce_sum(tokens)
        slowest = ranks.all_reduce_max(seconds)
        peak = ranks.all_reduce_max(peak_memory_bytes() / 2**30)
        if RANK == 0:
            print(json.dumps({"tokens_per_s": total / slowest, "step_s": slowest / STEPS, "peak_gib": peak}))


def micro_batches(plan: Plan, step: int) -> list[list[Window]]:
    """This rank's part of a step, in micro-batches as windows come, which is what a DataLoader does."""
    windows = plan.windows["train"]
    epoch, place = divmod(step, -(-len(windows) // GLOBAL))
    mine = step_windows(SEED, epoch, place, len(windows), GLOBAL)[RANK::RANKS]
    return [[windows[index] for index in mine[start : start + MICRO]] for start in range(0, len(mine), MICRO)]


def padded_inputs(plan: Plan, windows: list[Window], length: int = 0) -> dict[str, torch.Tensor]:
    """Inputs and labels, padded to the longest window, or to `length` tokens."""
    batch = collate(windows, plan.pretrained.tokenizer.pad_token_id)
    inputs = {**model_inputs(plan.pretrained.family, batch), "labels": batch.labels_BT}
    more = max(0, length - batch.input_ids_BT.shape[1])
    for name, tensor in inputs.items():
        fill = {"labels": -100, "input_ids": batch.pad_token_id}.get(name, 0)
        sides = (0, 0, 0, more) if name == "bbox" else (0, more)
        inputs[name] = torch.nn.functional.pad(tensor, sides, value=fill)
    return inputs


def real_tokens(windows: list[list[Window]]) -> int:
    return sum(window.length for one in windows for window in one)


def layoutner(plan: Plan, model: Any, ranks: Ranks) -> Step:
    engine = Engine(model, plan.ds_config, plan.optimizer, ranks)
    batches = global_batches(plan, ranks, 0)

    def step(_: int) -> int:
        lengths = optimizer_step(plan, engine, next(batches), ranks).lengths  # of all ranks
        return int(lengths.sum()) if RANK == 0 else 0

    return step


def ds_config(plan: Plan, **more: object) -> dict[str, Any]:
    """The DeepSpeed config of layoutner's run, without the parts that a framework fills in."""
    kept = ("zero_optimization", "gradient_clipping", "optimizer", "zero_allow_untested_optimizer")
    return {**{key: plan.ds_config[key] for key in kept if key in plan.ds_config}, **more}


def limit(plan: Plan, model: Any, ranks: Ranks) -> Step:
    """The engine on rows that are full: the windows' tokens end to end, cut every ROW tokens."""
    config = ds_config(plan, train_micro_batch_size_per_gpu=MICRO)
    groups = decay_groups(model, config["optimizer"]["params"]["weight_decay"])
    engine, *_ = deepspeed.initialize(model=model, model_parameters=groups, config=config)
    windows = plan.windows["train"]
    flat = {
        "input_ids": torch.tensor([token for window in windows for token in window.input_ids.tolist()]),
        "bbox": torch.tensor([box for window in windows for box in window.boxes.tolist()]),
        "labels": torch.tensor([label for window in windows for label in window.labels.tolist()]),
    }
    available = len(flat["input_ids"]) // ROW
    rows = max(1, round(GLOBAL * len(flat["input_ids"]) / len(windows) / ROW / RANKS))

    def step(number: int) -> int:
        done = 0
        while done < rows:
            some = min(MICRO, rows - done)
            first = ((number * rows + done) * RANKS + RANK) % (available - some + 1)
            inputs = {
                name: values[first * ROW : (first + some) * ROW].unflatten(0, (some, ROW))
                for name, values in flat.items()
            }
            done += some
            engine.set_gradient_accumulation_boundary(done == rows)
            engine.backward(engine(**inputs).loss)
        engine.step()
        return rows * ROW

    return step


def script(plan: Plan, model: Any, ranks: Ranks) -> Step:
    """Plain PyTorch, every window padded to LENGTH tokens."""
    optimizer = torch.optim.AdamW(decay_groups(model, 0.01), lr=5e-5)
    network = torch.nn.parallel.DistributedDataParallel(model) if RANKS > 1 else model

    def step(number: int) -> int:
        parts = micro_batches(plan, number)
        for part in parts:
            (network(**padded_inputs(plan, part, LENGTH)).loss / len(parts)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.zero_grad()
        return real_tokens(parts)

    model.train()
    return step


def accelerate(plan: Plan, model: Any, ranks: Ranks) -> Step:
    from accelerate import Accelerator, DeepSpeedPlugin
    from accelerate.utils import DummyOptim

    accumulation = max(1, GLOBAL // (MICRO * RANKS))
    config = ds_config(plan, train_micro_batch_size_per_gpu=MICRO, gradient_accumulation_steps=accumulation)
    plugin = DeepSpeedPlugin(hf_ds_config=config)
    accelerator = Accelerator(deepspeed_plugin=plugin, gradient_accumulation_steps=accumulation)
    network, optimizer = accelerator.prepare(model, DummyOptim(decay_groups(model, 0.01)))
    network.train()

    def step(number: int) -> int:
        parts = micro_batches(plan, number)
        for place, part in enumerate(parts):
            accelerator.gradient_state._set_sync_gradients(place == len(parts) - 1)
            accelerator.backward(network(**padded_inputs(plan, part)).loss)
            optimizer.step()
            optimizer.zero_grad()
        return real_tokens(parts)

    return step


def trainer(plan: Plan, model: Any) -> tuple[float, int]:
    """Hugging Face's Trainer; seconds and tokens after the warm-up."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    model.set_attn_implementation("sdpa")
    windows = plan.windows["train"]
    counted = {"tokens": 0, "seconds": 0.0, "start": 0.0}

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == WARM_UP:
                counted.update(tokens=0, start=time.perf_counter())
            counted["seconds"] = time.perf_counter() - counted["start"]

    class Counting(Trainer):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *more: Any, **others: Any) -> Any:
            counted["tokens"] += int(inputs["attention_mask"].sum())
            return super().training_step(model, inputs, *more, **others)

    def rows(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return padded_inputs(plan, [windows[one["index"]] for one in examples])

    # The sampler that groups by length asks for the input ids.
    dataset = [{"index": index, "input_ids": window.input_ids.tolist()} for index, window in enumerate(windows)]
    random.Random(SEED).shuffle(dataset)
    with tempfile.TemporaryDirectory() as folder:
        micro = min(MICRO, max(1, GLOBAL // RANKS))
        arguments = TrainingArguments(
            folder,
            deepspeed=ds_config(
                plan,
                train_batch_size="auto",
                train_micro_batch_size_per_gpu="auto",
                gradient_accumulation_steps="auto",
                gradient_clipping="auto",
            ),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=max(1, GLOBAL // (micro * RANKS)),
            learning_rate=plan.ds_config["optimizer"]["params"]["lr"],
            weight_decay=plan.ds_config["optimizer"]["params"]["weight_decay"],
            max_steps=WARM_UP + STEPS,
            lr_scheduler_type="constant",
            train_sampling_strategy="group_by_length" if NAME == "hf-grouped" else "random",
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        Counting(model=model, args=arguments, train_dataset=dataset, data_collator=rows, callbacks=[Clock()]).train()
    return counted["seconds"], counted["tokens"]


if __name__ == "__main__":
    main()
