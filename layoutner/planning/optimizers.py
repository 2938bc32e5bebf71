"""The table of optimizers: who computes each of them, and which state it keeps."""

from dataclasses import dataclass

# Name of the tensor that optimizer.average_decay adds to the state of any of them: the average of the fp32 weights.
AVERAGE = "average"


@dataclass(frozen=True)
class Optimizer:
    """One row of the table. The key of the row is optimizer.name."""

    state: tuple[str, ...]  # names of the fp32 tensors that it keeps per parameter, besides the fp32 weights
    deepspeed: str | None = None  # DeepSpeed's name for it; None: layoutner's own (engine/optimizers.py)


OPTIMIZERS = {
    "adamw": Optimizer(("exp_avg", "exp_avg_sq"), "AdamW"),
    "lamb": Optimizer(("exp_avg", "exp_avg_sq")),
    "lars": Optimizer(("momentum_buffer",)),
    "lion": Optimizer(("exp_avg",)),
}
