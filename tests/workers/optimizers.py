"""Started on 1, 2 or 4 ranks by test_optimizers.py: layoutner's optimizers beside plain PyTorch in float64.

    torchrun --nproc-per-node N tests/workers/optimizers.py FOLDER OUT.json fast|all

Every rank takes part; rank 0 writes what it measured. The first call leaves checkpoints in FOLDER, from which later
calls go on.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertForTokenClassification

from layoutner.distributed.ranks import Ranks
from layoutner.engine.engine import Engine, Step
from layoutner.models.parameters import DTYPES
from layoutner.planning.batch_plan import plan_batch
from layoutner.planning.render import render
from layoutner.planning.schedule import plan_schedule
from layoutner.settings.tree import Settings, load

# torch computes fp16 on any CPU, only slowly; DeepSpeed asks for a CPU that does it fast. Loss scaling is the same.
CPU_Accelerator.is_fp16_supported = lambda self: True
CPU_Accelerator.supported_dtypes = lambda self: list(DTYPES.values())

# Sizes that no number of ranks divides, so that parameters are cut anywhere, and some ranks hold nothing of some.
SIZE = {"hidden_size": 18, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 29, "vocab_size": 37}
STEPS, SAVED = 6, 3  # optimizer steps, and that after which a checkpoint is saved
LR, DECAY, LAYER_DECAY = 0.05, 0.1, 0.8
STAGES = ("0", "1", "2", "3", "2-offload", "3-offload")  # names of presets, after "zero"
COSINE = ("lamb", "lion", "muon")  # the others have DeepSpeed's linear scheduler
EXEMPT = ("bias", "LayerNorm.weight")

OPTIMIZERS: dict[str, dict[str, str]] = {
    "lamb": {"name": "lamb"},
    "nvlamb": {"name": "lamb", "variant": "nvlamb", "max_trust_ratio": "0.5", "max_grad_norm": "0.3"},
    "lars": {"name": "lars", "trust_coefficient": "0.1"},
    "lion": {"name": "lion"},
    "muon": {"name": "muon", "max_grad_norm": "0.3"},
    "adamw": {"name": "adamw"},
}

# What is measured, by optimizer and number format.
FAST = {("lamb", "fp32"): ("1", "3"), ("nvlamb", "fp32"): ("3",), ("lars", "fp32"): ("2",), ("muon", "fp32"): ("3",)}
ALL = {(name, "fp32"): STAGES[:4] for name in OPTIMIZERS} | {
    ("lamb", "fp32"): STAGES,
    ("lamb", "bf16"): STAGES,
    ("lars", "bf16"): STAGES[:4],
    ("muon", "bf16"): STAGES[:4],
}

Tensors = dict[str, torch.Tensor]


class RecordingEngine(Engine):
    """Keeps the gradient that `step` is about to apply."""

    gradient: Tensors

    def step(self, lr: float, position: int) -> Step:
        self.gradient = {}
        for name, parameter in self._engine.module.named_parameters():
            whole = parameter.grad if self._stage == 0 else deepspeed.utils.safe_get_full_grad(parameter)
            self.gradient[name] = whole.detach().double().cpu().clone() / self.loss_scale
        return super().step(lr, position)


class Reference:
    """The published formulas on whole parameters, in float64."""

    def __init__(self, settings: Any, weights: Tensors, moments: Tensors | None = None, steps: int = 0) -> None:
        self.settings, self.steps = settings, steps
        self.weights = {name: weight.double().clone() for name, weight in weights.items()}
        kinds = ("exp_avg", "exp_avg_sq", "momentum_buffer")
        self.state = {
            kind: {
                name: moments[f"{kind}/{name}"].double() if moments and f"{kind}/{name}" in moments else 0 * weight
                for name, weight in self.weights.items()
            }
            for kind in kinds
        }

    def step(self, gradient: Tensors, lr: float) -> None:
        self.steps += 1
        norm = sum(float(grad.square().sum()) for grad in gradient.values()) ** 0.5
        limit = self.settings.max_grad_norm
        clipping = min(1.0, limit / (norm + 1e-6)) if limit else 1.0
        for name, whole in gradient.items():
            grad = clipping * whole
            exempt = name.endswith(EXEMPT)
            moved = self.moved_by_muon if is_muons(self.settings, name, grad) else self.updated
            self.weights[name] = moved(name, grad, 0.0 if exempt else DECAY, lr * scale_of(name), exempt)

    def moved_by_muon(self, name: str, grad: torch.Tensor, decay: float, lr: float, _: bool) -> torch.Tensor:
        momentum = self.settings.momentum
        self.state["momentum_buffer"][name] = momentum * self.state["momentum_buffer"][name] + grad
        x = grad + momentum * self.state["momentum_buffer"][name]
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            x = 3.4445 * x - 4.7750 * (x @ x.T @ x) + 2.0315 * (x @ x.T @ x @ x.T @ x)
        return self.weights[name] * (1 - lr * decay) - lr * 0.2 * max(x.shape) ** 0.5 * x

    def updated(self, name: str, grad: torch.Tensor, decay: float, lr: float, exempt: bool) -> torch.Tensor:
        settings, weight, state = self.settings, self.weights[name], self.state
        if settings.name == "lars":
            ratio = torch.tensor(1.0, dtype=torch.float64)
            if not exempt and weight.norm() > 0 and grad.norm() > 0:
                ratio = settings.trust_coefficient * weight.norm() / (grad.norm() + decay * weight.norm())
            moved = settings.momentum * state["momentum_buffer"][name] + lr * ratio * (grad + decay * weight)
            state["momentum_buffer"][name] = moved
            return weight - moved
        first, second = settings.betas
        if settings.name == "lion":
            update = (first * state["exp_avg"][name] + (1 - first) * grad).sign()
            state["exp_avg"][name] = second * state["exp_avg"][name] + (1 - second) * grad
            return weight - lr * (update + decay * weight)
        state["exp_avg"][name] = first * state["exp_avg"][name] + (1 - first) * grad
        state["exp_avg_sq"][name] = second * state["exp_avg_sq"][name] + (1 - second) * grad**2
        mean = state["exp_avg"][name] / (1 - first**self.steps)
        root = (state["exp_avg_sq"][name] / (1 - second**self.steps)).sqrt()
        update = mean / (root + settings.eps) + decay * weight
        ratio = torch.tensor(1.0, dtype=torch.float64)
        adapts = settings.name == "lamb" and (settings.variant == "nvlamb" or not exempt)
        if adapts and weight.norm() > 0 and update.norm() > 0:
            ratio = (weight.norm() / update.norm()).clamp(settings.min_trust_ratio, settings.max_trust_ratio)
        return weight - lr * ratio * update


def is_muons(settings: Any, name: str, grad: torch.Tensor) -> bool:
    return settings.name == "muon" and ".layer." in name and grad.ndim == 2


def scale_of(name: str) -> float:
    """Factor of the learning rate by layer-wise decay: 2 layers, so the head has depth 3."""
    depth = 3 if "classifier" in name else 1 + int(name.split(".layer.")[1][0]) if ".layer." in name else 0
    return float(LAYER_DECAY ** (3 - depth))


def new_model() -> BertForTokenClassification:
    """The network at the start, always the same."""
    torch.manual_seed(0)
    model = BertForTokenClassification(BertConfig(max_position_embeddings=16, num_labels=3, **SIZE))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)  # biases that are not 0
        model.classifier.bias.zero_()  # a norm of 0
    return model


def engine_for(name: str, dtype: str, stage: str, ranks: Ranks) -> tuple[RecordingEngine, Settings, Any]:
    tree = {
        "optimizer": {
            "max_grad_norm": "0",
            **OPTIMIZERS[name],
            "lr": str(LR),
            "weight_decay": str(DECAY),
            "layer_decay": str(LAYER_DECAY),
        },
        "schedule": {"max_steps": "20", "shape": "cosine" if name in COSINE else "linear", "warmup_steps": "2"},
        "precision": {"dtype": dtype, "initial_scale_power": "19", "hysteresis": "1"},  # fp16 skips steps
        "deepspeed": {"preset": f"zero{stage}"},
    }
    settings = load(None, tree)
    schedule = plan_schedule(settings.schedule, ranks.size, None)
    config = render(settings, plan_batch(ranks.size, 1, ranks.size), schedule)
    config["zero_optimization"]["reduce_bucket_size"] = 1000
    if stage.startswith("3"):
        config["zero_optimization"]["sub_group_size"] = 4000  # several flat tensors
    return RecordingEngine(new_model(), config, settings.optimizer, ranks), settings, schedule


def steps(engine: Engine, reference: Reference, schedule: Any, first: int, last: int) -> None:
    for step in range(first, last):
        torch.manual_seed(step)
        logits = engine.forward({"input_ids": torch.randint(37, (2, 16))})
        targets = torch.randint(3, (2, 16))
        engine.backward(nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten()), last=True)
        outcome = engine.step(LR * schedule.factor(step), schedule.deepspeed_position(step))
        if outcome.applied:
            reference.step(engine.gradient, LR * schedule.factor(step))


def error(engine: Engine, reference: Reference, start: Tensors, ranks: Ranks) -> dict[str, float]:
    """Relative error of the fp32 weights, and of all updates since `start`."""
    moments = engine.moments()
    if not ranks.is_rank_zero:
        return {}
    found = {name: moments[f"master/{name}"].double() for name in reference.weights}
    wrong = sum(float((found[name] - whole).square().sum()) for name, whole in reference.weights.items())
    size = sum(float(whole.square().sum()) for whole in reference.weights.values())
    moved = sum(float((whole - start[name]).square().sum()) for name, whole in reference.weights.items())
    return {"weights": (wrong / size) ** 0.5, "updates": (wrong / moved) ** 0.5}


def masters(dtype: str) -> Tensors:
    """The fp32 weights at the start, on every rank. The network is built the same on each."""
    return {name: weight.detach().to(DTYPES[dtype]).double() for name, weight in new_model().named_parameters()}


def measure(name: str, dtype: str, stage: str, folder: Path, ranks: Ranks) -> dict[str, Any]:
    engine, settings, schedule = engine_for(name, dtype, stage, ranks)
    engine.train()
    start = masters(dtype)
    reference = Reference(settings.optimizer, start)
    file = folder / f"{name}-{dtype}-{stage}.safetensors"
    saves = ranks.all_reduce_max(file.exists()) == 0
    steps(engine, reference, schedule, 0, SAVED)
    if saves:
        moments, counters = engine.moments(), engine.counters()
        if ranks.is_rank_zero:
            save_file(moments, file, metadata={"counters": json.dumps(counters)})
    steps(engine, reference, schedule, SAVED, STEPS)
    found = error(engine, reference, start, ranks) | {"updates done": reference.steps}
    engine.close()
    return found


def measure_resumed(name: str, dtype: str, stage: str, source: str, folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Go on at one ZeRO stage from a checkpoint of another."""
    file = folder / f"{name}-{dtype}-{source}.safetensors"
    saved = load_file(file)
    with safe_open(file, "pt") as opened:
        counters = json.loads(opened.metadata()["counters"])
    engine, settings, schedule = engine_for(name, dtype, stage, ranks)
    engine.restore(counters, lambda key, shape: saved[key].reshape(shape))
    engine.train()
    start = {key.removeprefix("master/"): saved[key].double() for key in saved if key.startswith("master/")}
    reference = Reference(settings.optimizer, start, saved, counters["updates"])
    steps(engine, reference, schedule, SAVED, STEPS)
    found = error(engine, reference, start, ranks)
    engine.close()
    return found


def foreign_error(stage: int, ranks: Ranks) -> float:
    """Relative error of all updates of pytorch_optimizer's LAMB under ZeRO, against the same optimizer without it."""
    from pytorch_optimizer import Lamb

    model, plain = new_model(), new_model()
    start = [weight.detach().clone() for weight in plain.parameters()]
    config = {
        "train_batch_size": ranks.size,
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 0.0,  # 1.0 by default
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=Lamb(model.parameters(), lr=LR), config=config)
    alone = Lamb(plain.parameters(), lr=LR)
    for step in range(STEPS):
        torch.manual_seed(step)
        inputs, targets = torch.randint(37, (ranks.size, 2, 16)), torch.randint(3, (ranks.size, 2, 16))
        logits = engine(input_ids=inputs[ranks.rank]).logits
        engine.backward(nn.functional.cross_entropy(logits.flatten(0, 1), targets[ranks.rank].flatten()))
        # The same gradient for both, as LAMB makes as much of one that is only rounding as of any other.
        for own, other in zip(model.parameters(), plain.parameters(), strict=True):
            other.grad = (own.grad if stage == 0 else deepspeed.utils.safe_get_full_grad(own)).detach().clone()
        engine.step()
        alone.step()
    wrong, moved = 0.0, 0.0
    for weight, other, before in zip(model.parameters(), plain.parameters(), start, strict=True):
        with deepspeed.zero.GatheredParameters(weight, enabled=stage == 3):
            wrong += float((weight.detach() - other.detach()).double().square().sum())
        moved += float((other.detach() - before).double().square().sum())
    engine.destroy()
    return (wrong / moved) ** 0.5


def main() -> None:
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    folder, out, tier = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    fast = tier == "fast"
    ranks = Ranks.join()
    results: dict[str, Any] = {}
    for (name, dtype), stages in (FAST if fast else ALL).items():
        for stage in stages:
            results[f"{name}/{dtype}/{stage}"] = measure(name, dtype, stage, folder, ranks)
        if len(stages) > 1:
            for stage, source in zip(stages, stages[1:] + stages[:1], strict=True):
                results[f"{name}/{dtype}/to {stage}"] = measure_resumed(name, dtype, stage, source, folder, ranks)
    if not fast:
        for stage in ("0", "1", "3"):
            results[f"lamb/fp16/{stage}"] = measure("lamb", "fp16", stage, folder, ranks)
        results["foreign"] = {stage: foreign_error(int(stage), ranks) for stage in STAGES[:4]}
    if ranks.is_rank_zero:
        out.write_text(json.dumps(results))
    ranks.close()


if __name__ == "__main__":
    main()
