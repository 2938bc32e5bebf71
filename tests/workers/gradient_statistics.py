"""Started on 1 or 2 ranks by test_statistics.py: the engine's statistics beside plain autograd in float64.

    torchrun --nproc-per-node N tests/workers/gradient_statistics.py OUT.json fast|all

Every rank takes part; rank 0 writes what it measured.
"""

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from torch import nn
from transformers import BertConfig, BertForTokenClassification

from layoutner.distributed.ranks import Ranks
from layoutner.engine.engine import Engine, Step
from layoutner.engine.statistics import layer_of
from layoutner.models.parameters import DTYPES
from layoutner.planning.batch_plan import plan_batch
from layoutner.planning.optimizers import OPTIMIZERS
from layoutner.planning.render import render
from layoutner.planning.schedule import plan_schedule
from layoutner.settings.tree import load

# torch computes fp16 on any CPU, only slowly; DeepSpeed asks for a CPU that does it fast. Loss scaling is the same.
CPU_Accelerator.is_fp16_supported = lambda self: True
CPU_Accelerator.supported_dtypes = lambda self: list(DTYPES.values())

# Sizes that no number of ranks divides, so that parameters are cut anywhere, and some ranks hold nothing of some.
SIZE = {"hidden_size": 18, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 29, "vocab_size": 37}
FROZEN = "bert.embeddings.position_embeddings.weight"
MICRO_BATCHES = (3, 1, 0, 2, 5, 2)  # windows of each; dealt to the ranks in turn
IGNORED = -100
STEPS, MEASURED = 3, (0, 2)

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One engine."""

    preset: str  # after "zero"
    dtype: str = "fp32"
    network: str = "plain"  # or "checkpointing", or "shared": both layers have one feed-forward network
    optimizer: str = "adamw"

    def __str__(self) -> str:
        return "/".join((self.preset, self.dtype, self.network))


FAST = (Case("0"), Case("2"), Case("3", network="checkpointing"), Case("2", "fp16"))
MORE = (
    *(Case(preset) for preset in ("1", "3", "2-offload", "3-offload")),
    *(Case(stage, network="shared") for stage in "023"),
    *(Case(stage, dtype) for stage in "0123" for dtype in ("bf16", "fp16") if (stage, dtype) != ("2", "fp16")),
)


def new_model(network: str) -> BertForTokenClassification:
    """The network at the start, always the same."""
    torch.manual_seed(0)
    config = BertConfig(
        max_position_embeddings=16,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **SIZE,
    )
    model = BertForTokenClassification(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)  # biases that are not 0
    if network == "shared":
        first, second = model.bert.encoder.layer
        second.intermediate, second.output = first.intermediate, first.output
    if network == "checkpointing":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.get_parameter(FROZEN).requires_grad_(False)
    return model


def engine_for(case: Case, ranks: Ranks, model: nn.Module, lr: float = 0.01, **precision: str) -> Engine:
    tree = {
        "optimizer": {"name": case.optimizer, "max_grad_norm": "0.1", "weight_decay": "0.1", "layer_decay": "0.8"},
        "schedule": {"max_steps": "20", "shape": "constant"},
        "precision": {"dtype": case.dtype, "loss_scale": "1024", **precision},
        "deepspeed": {"preset": f"zero{case.preset}"},
    }
    settings = load(None, tree)
    config = render(settings, plan_batch(ranks.size, 1, ranks.size), plan_schedule(settings.schedule, 13, None))
    config["zero_optimization"]["reduce_bucket_size"] = 1000
    if case.preset.startswith("3"):
        config["zero_optimization"]["sub_group_size"] = 4000  # several flat tensors
    engine = Engine(model, config, settings.optimizer.model_copy(update={"lr": lr}), ranks)
    engine.train()
    return engine


def batch_of(step: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Token ids and labels of each micro-batch of a step, on every rank."""
    generator = torch.Generator().manual_seed(step)
    shape = (sum(MICRO_BATCHES), 16)
    ids, labels = (torch.randint(high, shape, generator=generator) for high in (37, 3))
    labels[torch.rand(shape, generator=generator) < 0.3] = IGNORED
    return list(ids.split(list(MICRO_BATCHES))), list(labels.split(list(MICRO_BATCHES)))


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def take_step(engine: Engine, step: int, lr: float, measures: bool, ranks: Ranks) -> Step:
    """A step as the training loop takes it."""
    if measures:
        engine.statistics.begin()
    ids, labels = batch_of(step)
    weight = sum(int((one != IGNORED).sum()) for one in labels)
    own = list(zip(ids, labels, strict=True))[ranks.rank :: ranks.size]
    for number, (rows, its_labels) in enumerate(own):
        # A rank without windows computes one row that counts for nothing.
        logits = engine.forward({"input_ids": rows if len(rows) else torch.zeros(1, 16, dtype=torch.long)})
        loss = summed_loss(logits.float(), its_labels) if len(rows) else logits.float().sum() * 0
        engine.backward(loss * ranks.size / weight, last=number == len(own) - 1)
        engine.statistics.add(len(rows))
    return engine.step(lr, step)


def expected(case: Case, step: int, before: Tensors, after: Tensors) -> dict[str, float]:
    """The statistics of a step by their definitions, from the fp32 weights before and after it."""
    model = new_model("shared" if case.network == "shared" else "plain").double()
    for name, parameter in model.named_parameters():
        if name in before:
            parameter.data = before[name].to(DTYPES[case.dtype]).double()
        else:
            parameter.data = parameter.data.to(DTYPES[case.dtype]).double()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    ids, labels = batch_of(step)
    weight = sum(int((one != IGNORED).sum()) for one in labels)
    whole = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
    total, found = sum(MICRO_BATCHES), 0.0
    for rows, its_labels in zip(ids, labels, strict=True):
        if len(rows):
            loss = summed_loss(model(input_ids=rows).logits, its_labels) / weight
            grads = torch.autograd.grad(loss, list(trained.values()))
            for name, grad in zip(trained, grads, strict=True):
                whole[name] += grad
            mean = [grad * total / len(rows) for grad in grads]
            found += len(rows) / total * sum(float(grad.square().sum()) for grad in mean)
    squared_norm = sum(float(grad.square().sum()) for grad in whole.values())
    variance = (found - squared_norm) * total / (sum(map(bool, MICRO_BATCHES)) - 1)
    statistics = {"gradient/window_variance": variance, "gradient/squared_norm": squared_norm - variance / total}
    for layer in dict.fromkeys(map(layer_of, trained)):
        names = [name for name in trained if layer_of(name) == layer]
        grads_of = torch.cat([whole[name].flatten() for name in names])
        old, new = (torch.cat([tensors[name].double().flatten() for name in names]) for tensors in (before, after))
        statistics[f"gradient_norm/{layer}"] = float(grads_of.norm())
        statistics[f"update_ratio/{layer}"] = float((new - old).norm() / old.norm())
    return statistics


def weights_of(engine: Engine) -> Tensors:
    """The fp32 weights, on every rank."""
    trained = {name: one for name, one in engine.module.named_parameters() if one.requires_grad}
    return {name: engine._partitions.whole(one, "master").detach().clone() for name, one in trained.items()}


def measure(case: Case, ranks: Ranks) -> dict[str, Any]:
    """Largest relative error of each group of statistics, and what is left between measured steps."""
    engine = engine_for(case, ranks, new_model(case.network))
    errors: dict[str, float] = {}
    found: dict[str, Any] = {"errors": errors, "unmeasured": {}, "values": [], "clipped": []}
    after = weights_of(engine)
    for step in range(STEPS):
        before = after
        outcome = take_step(engine, step, 0.01, step in MEASURED, ranks)
        after = weights_of(engine)
        if step not in MEASURED:
            found["unmeasured"] |= outcome.statistics
            continue
        found["values"].append(outcome.statistics)
        found["clipped"].append(outcome.grad_norm > 0.1)
        if ranks.is_rank_zero:
            truth = expected(case, step, before, after)
            assert truth.keys() == outcome.statistics.keys() - {"gradient/noise_scale_windows"}
            for name, value in truth.items():
                group = name if name.startswith("gradient/") else name.partition("/")[0]
                errors[group] = max(errors.get(group, 0.0), abs(outcome.statistics[name] / value - 1))
    found["hooks left"] = sum(len(one._backward_hooks or ()) for one in engine.module.parameters())
    found["averages"] = engine.counters()["gradient_noise"]
    engine.close()
    return found


def moves(optimizer: str, ranks: Ranks) -> bool:
    """Whether steps at learning rate 0 change a weight."""
    engine = engine_for(Case("2", optimizer=optimizer), ranks, new_model("plain"), lr=0.0)
    before = weights_of(engine)
    for step in range(2):
        assert take_step(engine, step, 0.0, True, ranks).applied
    after = weights_of(engine)
    engine.close()
    return any(not torch.equal(after[name], weight) for name, weight in before.items())


def measure_skipped(ranks: Ranks) -> dict[str, Any]:
    """A step that fp16 skips."""
    dynamic = {"loss_scale": "0", "initial_scale_power": "32"}
    engine = engine_for(Case("2", "fp16"), ranks, new_model("plain"), **dynamic)
    outcome = take_step(engine, 0, 0.01, True, ranks)
    averages = engine.statistics.averages
    engine.close()
    return {"applied": outcome.applied, "statistics": outcome.statistics, "averages": averages}


class Linear(nn.Module):
    """The gradient of the sum of its outputs is the sum of the windows and, for its bias, their number."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(size, 1)

    def forward(self, windows: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.classifier(windows))


def measure_known(ranks: Ranks) -> dict[str, float]:
    """Windows with a Gaussian gradient of known mean and covariance, in micro-batches of very unequal sizes."""
    size, sizes, steps = 500, (4, 59, 17, 31, 8, 44), 40
    spread = torch.linspace(0.5, 1.5, size)  # standard deviation of each element
    mean = torch.full((size,), 0.1)
    engine = engine_for(Case("2"), ranks, Linear(size), lr=0.0)
    generator = torch.Generator().manual_seed(0)
    sums = torch.zeros(2)
    for step in range(steps):
        engine.statistics.begin()
        windows = mean + spread * torch.randn(sum(sizes), size, generator=generator)
        own = list(windows.split(list(sizes)))[ranks.rank :: ranks.size]
        for number, one in enumerate(own):
            loss = engine.forward({"windows": one}).sum() * ranks.size / sum(sizes)
            engine.backward(loss, last=number == len(own) - 1)
            engine.statistics.add(len(one))
        found = engine.step(0.0, step).statistics
        sums += torch.tensor([found["gradient/window_variance"], found["gradient/squared_norm"]]) / steps
    averages = engine.statistics.averages
    engine.close()
    truth = spread.square().sum(), mean.square().sum() + 1
    return {
        "window variance": float(sums[0] / truth[0]) - 1,
        "squared norm": float(sums[1] / truth[1]) - 1,
        "noise scale": averages[0] / averages[1] / float(truth[0] / truth[1]) - 1,
    }


def main() -> None:
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    out, tier = Path(sys.argv[1]), sys.argv[2]
    ranks = Ranks.join()
    results: dict[str, Any] = {str(case): measure(case, ranks) for case in (FAST if tier == "fast" else FAST + MORE)}
    results["moves"] = {optimizer: moves(optimizer, ranks) for optimizer in OPTIMIZERS}
    results["skipped"] = measure_skipped(ranks)
    results["known"] = measure_known(ranks)
    if ranks.is_rank_zero:
        out.write_text(json.dumps(results))
    ranks.close()


if __name__ == "__main__":
    main()
