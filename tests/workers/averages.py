"""Started on 1, 2 or 3 ranks by test_averages.py: the average of the weights beside plain PyTorch in float64.

    torchrun --nproc-per-node N tests/workers/averages.py FOLDER OUT.json fast|all

Every rank takes part; rank 0 writes what it measured. The first call leaves checkpoints in FOLDER, from which later
calls go on.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertForTokenClassification

from layoutner.distributed.ranks import Ranks
from layoutner.engine.engine import Engine
from layoutner.models.parameters import DTYPES
from layoutner.planning.batch_plan import plan_batch
from layoutner.planning.render import render
from layoutner.planning.schedule import plan_schedule
from layoutner.settings.tree import load

# torch computes fp16 on any CPU, only slowly; DeepSpeed asks for a CPU that does it fast. Loss scaling is the same.
CPU_Accelerator.is_fp16_supported = lambda self: True
CPU_Accelerator.supported_dtypes = lambda self: list(DTYPES.values())

# Sizes that no number of ranks divides, so that parameters are cut anywhere, and some ranks hold nothing of some.
SIZE = {"hidden_size": 18, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 29, "vocab_size": 37}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
STEPS, SAVED = 8, 5  # optimizer steps, and that after which a checkpoint is saved
LR, DECAY = 0.01, 0.4  # the warm-up of the decay, (1 + t) / (10 + t), reaches it at t = 5
STAGES = ("0", "1", "2", "3", "2-offload", "3-offload")  # names of presets, after "zero"

# What is measured, by optimizer and number format.
FAST = {("adamw", "fp32"): ("2", "3")}
ALL = {
    ("adamw", "fp32"): STAGES,
    ("adamw", "bf16"): STAGES,
    ("adamw", "fp16"): STAGES[:4],
    ("lamb", "fp32"): ("0", "2-offload", "3"),
}

Tensors = dict[str, torch.Tensor]


def new_model() -> BertForTokenClassification:
    """The network at the start, always the same. Its first parameters are frozen."""
    torch.manual_seed(0)
    model = BertForTokenClassification(BertConfig(max_position_embeddings=16, num_labels=3, **SIZE, **NO_DROPOUT))
    model.bert.embeddings.token_type_embeddings.weight.requires_grad_(False)
    return model


def engine_for(name: str, dtype: str, stage: str, ranks: Ranks, masters: Tensors | None = None) -> tuple[Engine, Any]:
    tree = {
        "optimizer": {"name": name, "lr": str(LR), "average_decay": str(DECAY)},
        "schedule": {"max_steps": "20"},
        # fp16 skips its first steps.
        "precision": {"dtype": dtype, "initial_scale_power": "19", "hysteresis": "1"},
        "deepspeed": {"preset": f"zero{stage}"},
    }
    settings = load(None, tree)
    schedule = plan_schedule(settings.schedule, ranks.size, None)
    config = render(settings, plan_batch(ranks.size, 1, ranks.size), schedule)
    config["zero_optimization"]["reduce_bucket_size"] = 1000
    if stage.startswith("3"):
        # Several flat tensors, and parameters that stay gathered as well as some that do not.
        config["zero_optimization"] |= {"sub_group_size": 4000, "stage3_param_persistence_threshold": 100}
    model = new_model()
    if masters is not None:
        model.load_state_dict(masters, strict=False)
    return Engine(model, config, settings.optimizer, ranks), schedule


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(step)
    return torch.randint(37, (2, 16)), torch.randint(3, (2, 16))


def logits_of(engine: Engine) -> torch.Tensor:
    with torch.no_grad():
        return engine.forward({"input_ids": batch(99)[0]}).double()


class Case:
    """An engine, and beside it the average of its fp32 weights by the definition, in float64."""

    def __init__(self, engine: Engine, schedule: Any, ranks: Ranks) -> None:
        self.engine, self.schedule, self.ranks = engine, schedule, ranks
        self.average = self.masters()
        self.updates = 0
        self.restored = True  # every evaluation so far has left everything as it was

    def masters(self) -> Tensors:
        """The whole fp32 weights, on every rank."""
        parameters = [(name, one) for name, one in self.engine.module.named_parameters() if one.requires_grad]
        whole = {name: self.engine._partitions.whole(one, "master") for name, one in parameters}
        return {name: one.detach().double().cpu().clone() for name, one in whole.items()}

    def train(self, first: int, last: int, evaluates: bool = True) -> None:
        for step in range(first, last):
            self.engine.train()
            inputs, targets = batch(step)
            logits = self.engine.forward({"input_ids": inputs})
            loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
            self.engine.backward(loss, last=True)
            position = self.schedule.deepspeed_position(step)
            if self.engine.step(LR * self.schedule.factor(step), position).applied:
                self.updates += 1
                decay = min(DECAY, (1 + self.updates) / (10 + self.updates))
                for name, weight in self.masters().items():
                    self.average[name] = decay * self.average[name] + (1 - decay) * weight
            if evaluates:
                self.evaluate()

    def evaluate(self) -> torch.Tensor:
        """Logits of the averaged weights."""
        self.engine.eval()
        before = self.snapshot()
        with self.engine.averaged():
            averaged = logits_of(self.engine)
        # After a step that fp16 skips nothing is gathered, and so there is nothing to compare with.
        self.restored &= all(one in (b"", other) for one, other in zip(before, self.snapshot(), strict=True))
        return averaged

    def snapshot(self) -> list[bytes]:
        """All bits that a later step depends on, of this rank, padding included."""
        partitions = self.engine._partitions
        tensors = [partitions._computed_with(one) for one in self.engine.module.parameters()]
        # Those that stay gathered at ZeRO 3 are computed with as they are.
        tensors += [one for one in self.engine.module.parameters() if getattr(one, "ds_persist", False)]
        for tensor, _ in partitions._tensors():
            state = self.engine._engine.basic_optimizer.state[tensor]
            tensors += [tensor, *(value for value in state.values() if torch.is_tensor(value))]
        return [one.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() for one in tensors]

    def found(self) -> dict[str, Any]:
        """What is compared, on rank 0."""
        averaged, trained = self.evaluate(), logits_of(self.engine)
        moments, weights = self.engine.moments(), self.engine.weights()
        restored = self.ranks.all_reduce_max(not self.restored) == 0
        if not self.ranks.is_rank_zero:
            return {}
        found = {name: moments[f"average/{name}"].double() for name in self.average}
        wrong = sum(float((found[name] - whole).square().sum()) for name, whole in self.average.items())
        size = sum(float(whole.square().sum()) for whole in self.average.values())
        plain = new_model()
        plain.load_state_dict({name: weight.float() for name, weight in weights.items()}, strict=False)
        dtype = next(iter(weights.values())).dtype
        with torch.no_grad():
            expected = plain.to(dtype).eval()(input_ids=batch(99)[0]).logits.double()
        masters = {name: moments[f"master/{name}"].double() for name in self.average}
        apart = sum(float((masters[name] - whole).square().sum()) for name, whole in self.average.items())
        return {
            "average": (wrong / size) ** 0.5,
            "apart": (apart / size) ** 0.5,  # the weights from their average
            "updates": self.updates,
            "restored": restored,
            "saved": all(torch.equal(weights[name], moments[f"average/{name}"].to(dtype)) for name in self.average),
            "frozen": torch.equal(
                weights["bert.embeddings.token_type_embeddings.weight"],
                new_model().bert.embeddings.token_type_embeddings.weight.to(dtype),
            ),
            "shown": float((averaged - expected).norm() / (averaged - trained).norm()),
        }


def measure(name: str, dtype: str, stage: str, folder: Path, ranks: Ranks) -> dict[str, Any]:
    case = Case(*engine_for(name, dtype, stage, ranks), ranks)
    file = folder / f"{name}-{dtype}-{stage}.safetensors"
    saves = ranks.all_reduce_max(file.exists()) == 0
    case.train(0, SAVED)
    if saves:
        moments, counters = case.engine.moments(), case.engine.counters()
        if ranks.is_rank_zero:
            save_file(moments, file, metadata={"counters": json.dumps(counters)})
    case.train(SAVED, STEPS)
    found, ends = case.found(), case.engine.moments()
    case.engine.close()
    # Once more, without any evaluation.
    other = Case(*engine_for(name, dtype, stage, ranks), ranks)
    other.train(0, STEPS, evaluates=False)
    again = other.engine.moments()
    changed = [key for key, whole in ends.items() if not torch.equal(whole, again[key])]
    other.engine.close()
    return found | {"changed by evaluations": changed}


def measure_resumed(
    name: str, dtype: str, stage: str, source: str, folder: Path, ranks: Ranks, has_average: bool = True
) -> dict[str, Any]:
    """Go on at one ZeRO stage from a checkpoint of another."""
    file = folder / f"{name}-{dtype}-{source}.safetensors"
    saved = load_file(file)
    with safe_open(file, "pt") as opened:
        counters = json.loads(opened.metadata()["counters"])
    masters = {key.removeprefix("master/"): saved[key] for key in saved if key.startswith("master/")}
    engine, schedule = engine_for(name, dtype, stage, ranks, masters)
    engine.restore(counters, lambda key, shape: saved[key].reshape(shape), has_average)
    case = Case(engine, schedule, ranks)
    if has_average:
        case.average = {name: saved[f"average/{name}"].double() for name in case.average}
    case.updates = counters["updates"]
    case.train(SAVED, STEPS)
    found = case.found()
    engine.close()
    return found


def main() -> None:
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    folder, out, tier = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    ranks = Ranks.join()
    results: dict[str, Any] = {}
    for (name, dtype), stages in (FAST if tier == "fast" else ALL).items():
        for stage in stages:
            results[f"{name}/{dtype}/{stage}"] = measure(name, dtype, stage, folder, ranks)
        if len(stages) > 1:
            for stage, source in zip(stages, stages[1:] + stages[:1], strict=True):
                results[f"{name}/{dtype}/to {stage}"] = measure_resumed(name, dtype, stage, source, folder, ranks)
    stages = ("3",) if tier == "fast" else STAGES[:4]
    for stage in stages:
        results[f"without/{stage}"] = measure_resumed("adamw", "fp32", stage, "2", folder, ranks, has_average=False)
    if ranks.is_rank_zero:
        out.write_text(json.dumps(results))
    ranks.close()


if __name__ == "__main__":
    main()
