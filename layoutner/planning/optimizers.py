"""The table of optimizers: who computes each of them, and which state it keeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Name of the tensor that optimizer.average_decay adds to the state of any of them: the average of the fp32 weights.
AVERAGE = "average"


@dataclass(frozen=True)
class Optimizer:
    """One row of the table. The key of the row is optimizer.name."""

    state: tuple[str, ...]  # names of the fp32 tensors that it keeps per parameter, besides the fp32 weights
    deepspeed: str | None = None  # DeepSpeed's name for it; None: layoutner's own (engine/optimizers.py)
    matrices: tuple[str, ...] | None = None  # state of the matrices of the layers, if it updates them in another way

    def state_of(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """The state of the parameters of a group from `models.parameters.decay_groups`."""
        return self.matrices if self.matrices is not None and group["is_matrix"] else self.state

    def state_size(self, trainable: int, matrices: int) -> int:
        """Elements of the state of some parameters.

        Args:
            trainable: elements of the parameters.
            matrices: elements of the matrices of the layers among them.
        """
        if self.matrices is None:
            return len(self.state) * trainable
        return len(self.state) * (trainable - matrices) + len(self.matrices) * matrices


OPTIMIZERS = {
    "adamw": Optimizer(("exp_avg", "exp_avg_sq"), "AdamW"),
    "lamb": Optimizer(("exp_avg", "exp_avg_sq")),
    "lars": Optimizer(("momentum_buffer",)),
    "lion": Optimizer(("exp_avg",)),
    "muon": Optimizer(("exp_avg", "exp_avg_sq"), matrices=("momentum_buffer",)),
}
