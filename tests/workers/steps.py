"""Started on 1, 2 or 3 ranks by test_engine.py: optimizer steps of the real loop beside plain PyTorch.

    torchrun --nproc-per-node N tests/workers/steps.py WORK_FOLDER OUT.json fast|all

Every rank takes part; rank 0 writes what it measured.
"""

import copy
import json
import logging
import math
import random
import sys
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import deepspeed
import numpy
import torch
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

from layoutner.corpus.batches import collate
from layoutner.distributed.ranks import Ranks
from layoutner.engine.engine import Engine, Step
from layoutner.models.dropout import mask_keys, masks_from
from layoutner.models.families import model_inputs
from layoutner.models.loading import build
from layoutner.models.parameters import DTYPES, decay_groups
from layoutner.settings.tree import load
from layoutner.training.global_batch import global_batches
from layoutner.training.plan import Plan, make_plan
from layoutner.training.step import optimizer_step

# torch computes fp16 on any CPU, only slowly; DeepSpeed asks for a CPU that does it fast. Loss scaling is the same.
CPU_Accelerator.is_fp16_supported = lambda self: True

# ZeRO stages and micro-batch sizes in fp32; the stages for all else, on three ranks too; and those for bf16 and fp16.
EVERY = ("0", "1", "2", "3")
ALL = EVERY, ("1", "2", "4"), EVERY, EVERY
FAST = ("0", "2", "3"), ("2",), ("2",), ("0", "2")


class RecordingEngine(Engine):
    """Keeps the gradient that `step` is about to apply."""

    gradient: dict[str, torch.Tensor]

    def step(self, lr: float, position: int) -> Step:
        self.gradient = {}
        for name, parameter in self._engine.module.named_parameters():
            if parameter.requires_grad:
                whole = parameter.grad if self._stage == 0 else deepspeed.utils.safe_get_full_grad(parameter)
                self.gradient[name] = whole.detach().float().clone() / self.loss_scale
        return super().step(lr, position)


def plan_for(folder: Path, ranks: Ranks, **overrides: str) -> Plan:
    values = {
        "model.name_or_path": str(folder / "checkpoint"),
        "model.dropout": "0",
        "data.format": "unilm",
        "data.train": str(folder / "data"),
        "data.max_length": "128",
        "data.stride": "0",
        "batch.global_batch_size": "8",
        "batch.micro_batch_size": "2",
        "optimizer.lr": "1e-3",
        "optimizer.weight_decay": "0.1",
        "optimizer.max_grad_norm": "0.5",
        "schedule.max_steps": "20",
        "precision.dtype": "fp32",
        **overrides,
    }
    tree: dict[str, dict[str, str]] = {}
    for name, value in values.items():
        section, key = name.split(".")
        tree.setdefault(section, {})[key] = value
    return make_plan(load(None, tree), ranks.size)


def new_model(plan: Plan) -> Any:
    torch.manual_seed(0)
    own = plan.settings.model
    tags = plan.corpus.labels.tags
    return build(plan.pretrained, tags, own.dropout, gradient_checkpointing=own.gradient_checkpointing)


def reference_loss(plan: Plan, model: Any, step: int) -> torch.Tensor:
    """torch's own mean over the whole global batch, in one padded batch, with the same dropout masks."""
    windows = plan.windows["train"]
    indices, _ = plan.step_batches(step)
    batch = collate([windows[i] for i in indices], plan.pretrained.tokenizer.pad_token_id)
    with masks_from(model, mask_keys(plan.settings.run.seed, step, indices, batch)):
        logits = model(**model_inputs(plan.pretrained.family, batch, plan.pretrained.image_processor)).logits
    weight = None
    if plan.settings.loss.class_weights == "balanced":
        ids = torch.tensor([label for window in windows for label in window.labels.tolist() if label != -100])
        counts = ids.bincount(minlength=len(plan.corpus.labels.tags))
        assert (counts > 0).all()
        assert counts.max() > 4 * counts.min()
        weight = len(ids) / (len(counts) * counts)
    smoothing = plan.settings.loss.label_smoothing
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.labels_BT.flatten(), weight=weight, label_smoothing=smoothing
    )


def relative_error(found: dict[str, torch.Tensor], model: Any) -> float:
    truth = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == truth.keys()
    difference = sum(float((found[name] - truth[name]).pow(2).sum()) for name in truth)
    return float((difference / sum(float(g.pow(2).sum()) for g in truth.values())) ** 0.5)


def measure(folder: Path, ranks: Ranks, steps: int, **overrides: str) -> dict[str, list[float]]:
    """Some steps of the loop beside AdamW in plain fp32 PyTorch from the same weights."""
    plan = plan_for(folder, ranks, **overrides)
    model = new_model(plan)
    reference = copy.deepcopy(model).to(DTYPES[plan.settings.precision.dtype]).float()
    reference.gradient_checkpointing_disable()
    groups = [{**g, "params": [p for p in g["params"] if p.requires_grad]} for g in decay_groups(reference, 0.1)]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    start = {name: parameter.detach().clone() for name, parameter in reference.named_parameters()}
    engine = RecordingEngine(model, plan.ds_config, plan.optimizer, ranks)
    found: dict[str, list[float]] = {
        name: [] for name in ("gradient", "loss", "loss error", "lr", "norm", "scale", "applied", "weights", "skipped")
    }
    for batch in islice(global_batches(plan, ranks, 0), steps):
        step, outcome = batch.step, optimizer_step(plan, engine, batch, ranks)
        optimizer.zero_grad()
        truth = reference_loss(plan, reference, step)
        truth.backward()
        if outcome.applied:
            found["gradient"].append(relative_error(engine.gradient, reference))
            limit = plan.settings.optimizer.max_grad_norm or math.inf
            norm = float(torch.nn.utils.clip_grad_norm_(reference.parameters(), limit))
            found["norm"].append(outcome.grad_norm / norm - 1)
            for group in optimizer.param_groups:
                group["lr"] = plan.lr(step)
            optimizer.step()
        else:
            found["norm"].append(outcome.grad_norm)
        found["loss"].append(outcome.loss)
        found["loss error"].append(outcome.loss / float(truth.detach()) - 1)
        found["lr"].append(outcome.lr)
        found["scale"].append(outcome.loss_scale)
        found["applied"].append(float(outcome.applied))
        found["skipped"].append(engine.skipped_steps)
        weights = engine.weights()
        if ranks.is_rank_zero:
            # ||W - W_reference|| / ||W_reference - W_start||: the error of all updates so far, against their size.
            error = sum(float((weights[n].float() - p.detach()).pow(2).sum()) for n, p in reference.named_parameters())
            moved = sum(float((p.detach() - start[n]).pow(2).sum()) for n, p in reference.named_parameters())
            found["weights"].append((error / moved) ** 0.5 if moved else error**0.5)
    engine.close()
    return found


def measure_splits(folder: Path, ranks: Ranks, tier: str) -> dict[str, Any]:
    """Steps whose global batch the ranks do not divide, by ZeRO stage, global batch and largest micro-batch."""
    results: dict[str, Any] = {}
    for stage in (FAST if tier == "fast" else ALL)[2]:
        for windows, micro in (("8", "8"), ("8", "1"), ("2", "8")):
            batch = {"batch.global_batch_size": windows, "batch.micro_batch_size": micro, "model.dropout": "0.1"}
            found: dict[str, Any] = dict(measure(folder, ranks, 3, **batch, **{"deepspeed.zero_stage": stage}))
            found["batch"] = str(plan_for(folder, ranks, **batch).batch)
            results[f"{stage}/{windows}/{micro}"] = found
    return results


def measure_more(folder: Path, ranks: Ranks, tier: str, results: dict[str, Any]) -> None:
    """Dropout, class weights, ramps, number formats and learning rates."""
    _, _, other_stages, half_stages = FAST if tier == "fast" else ALL
    for stage in other_stages:
        for micro in ("1", "8"):
            dropping = {"model.dropout": "0.1", "batch.micro_batch_size": micro, "deepspeed.zero_stage": stage}
            results[f"dropout/{stage}/{micro}"] = measure(folder, ranks, 3, **dropping)
        half = {"deepspeed.zero_stage": stage, "batch.micro_batch_size": "2"}
        weighted = {"loss.class_weights": "balanced", "loss.label_smoothing": "0.1"}
        skewed = {"data.train": str(folder / "skewed"), "data.label_all_subwords": "true"}
        results[f"weighted/{stage}"] = measure(folder, ranks, 3, **half, **weighted, **skewed)
    for stage in half_stages:
        half = {"deepspeed.zero_stage": stage, "batch.micro_batch_size": "2"}
        results[f"bf16/{stage}"] = measure(folder, ranks, 4, **{**half, "precision.dtype": "bf16"})
        # Without clipping, which would hide a gradient that is divided by the wrong scale.
        growing = {"precision.loss_scale_window": "2", "precision.initial_scale_power": "8"}
        growing["optimizer.max_grad_norm"] = "0"
        results[f"fp16 growing/{stage}"] = measure(folder, ranks, 7, **{**half, "precision.dtype": "fp16", **growing})
        fixed = {"precision.loss_scale": "128"}
        results[f"fp16 fixed/{stage}"] = measure(folder, ranks, 2, **{**half, "precision.dtype": "fp16", **fixed})
        huge = {"precision.initial_scale_power": "30", "precision.hysteresis": "2"}
        results[f"fp16 overflow/{stage}"] = measure(folder, ranks, 4, **{**half, "precision.dtype": "fp16", **huge})
    for stage in other_stages:
        # DeepSpeed's JSON has 2 accumulation steps on 2 ranks: those of 8 windows.
        for dtype in ("fp32",) if tier == "fast" else ("fp32", "bf16", "fp16"):
            ramp = {"batch.ramp": "0:3,1:16,2:8", "batch.reference_batch_size": "8", "optimizer.scale_lr": "linear"}
            ramp |= {"deepspeed.zero_stage": stage, "precision.dtype": dtype, "precision.loss_scale": "128"}
            results[f"ramp/{dtype}/{stage}"] = measure(folder, ranks, 4, **ramp)
    for stage in ("3",) if tier == "fast" else ("0", "2", "3"):
        saving = {"model.gradient_checkpointing": "true", "model.dropout": "0.1", "deepspeed.zero_stage": stage}
        results[f"checkpointing/{stage}"] = measure(folder, ranks, 3, **saving)
    for warmup, total in ((4, 10), (10, 10)) if tier == "fast" else ((0, 10), (1, 10), (4, 10), (10, 10)):
        schedule = {"schedule.warmup_steps": str(warmup), "schedule.max_steps": str(total)}
        results[f"lr/{warmup}/{total}"] = measure(folder, ranks, total, **schedule)["lr"]


def measure_everything(folder: Path, ranks: Ranks, tier: str) -> dict[str, Any]:
    results: dict[str, Any] = {}
    stages, micros, *_ = FAST if tier == "fast" else ALL
    for stage in stages:
        for micro in micros:
            overrides = {"deepspeed.zero_stage": stage, "batch.micro_batch_size": micro}
            results[f"fp32/{stage}/{micro}"] = measure(folder, ranks, 3, **overrides)
    if tier == "all":
        curve = {"model.dropout": "0.1", "batch.micro_batch_size": "2", "schedule.warmup_steps": "4"}
        results["curve"] = measure(folder, ranks, 20, **curve)["loss"]
    measure_more(folder, ranks, tier, results)
    # Nothing of the step draws from Python's or NumPy's generator, so what comes next tells how they were seeded.
    plan = plan_for(folder, ranks)
    engine = Engine(new_model(plan), plan.ds_config, plan.optimizer, ranks)
    draws = []
    for before in (1, 2):
        random.seed(before)
        numpy.random.seed(before)
        with closing(global_batches(plan, ranks, 5)) as batches:
            optimizer_step(plan, engine, next(batches), ranks)
        draws.append([random.random(), float(numpy.random.rand()), float(torch.rand(()))])
    results["draws"] = ranks.all_gather_object(draws)
    return results


def main() -> None:
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    folder, out, tier = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    ranks = Ranks.join()
    results = measure_splits(folder, ranks, tier) if ranks.size == 3 else measure_everything(folder, ranks, tier)
    if ranks.is_rank_zero:
        out.write_text(json.dumps(results))
    ranks.close()


if __name__ == "__main__":
    main()
