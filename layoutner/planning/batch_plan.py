"""Split the global batch of an optimizer step over ranks and micro-batches, exactly, for any number of ranks."""

import math
from dataclasses import dataclass

from layoutner.errors import SettingsError


@dataclass(frozen=True)
class BatchPlan:
    """Split of one full optimizer step into as few micro-batches as possible, whose sizes differ by at most one window.

    `corpus.batches.assign_to_ranks` assigns windows in this way. The loss is divided by the weight of the whole global
    batch, so micro-batches of different sizes, or empty ones, do not change the gradient.
    """

    global_batch_size: int  # windows per optimizer step, all ranks
    micro_batch_size: int  # windows of the largest micro-batch
    accumulation: int  # gradient accumulation steps: micro-batches of one rank per full optimizer step
    world_size: int
    limit: int  # the largest micro-batch allowed, settings.batch.micro_batch_size

    @property
    def micro_batches(self) -> int:
        """Number of micro-batches of all ranks per optimizer step."""
        return self.accumulation * self.world_size

    @property
    def deepspeed_batch_size(self) -> int:
        """DeepSpeed's train_batch_size, which must be micro-batch size x accumulation steps x ranks.

        It is larger than the global batch size if that is not such a product. Nothing is computed from it.
        """
        return self.micro_batch_size * self.micro_batches

    def __str__(self) -> str:
        ranks = f"{self.accumulation} accumulation x {self.world_size} rank{'s' * (self.world_size > 1)}"
        limit = f" (at most {self.limit})" * (self.micro_batch_size < self.limit)
        small, larger = divmod(self.global_batch_size, self.micro_batches)
        if not larger:
            return f"{self.global_batch_size} windows per step = {small} per forward{limit} x {ranks}"
        smaller = self.micro_batches - larger
        return (
            f"{self.global_batch_size} windows per step = {smaller} forward{'s' * (smaller > 1)} of {small} "
            f"+ {larger} of {small + 1}{limit}, in {ranks}"
        )

    @property
    def notes(self) -> list[str]:
        """Notes for the user: idle ranks, and a train_batch_size that differs from the global batch size."""
        notes = []
        if self.global_batch_size < self.world_size:
            notes.append(
                f"note: {self.world_size} ranks share {self.global_batch_size} windows, so in every step "
                f"{self.world_size - self.global_batch_size} of them have nothing to do: use fewer ranks, or a "
                f"batch.global_batch_size of {self.world_size} or more"
            )
        if self.deepspeed_batch_size != self.global_batch_size:
            product = f"{self.micro_batch_size} x {self.accumulation} x {self.world_size}"
            notes.append(
                f"note: DeepSpeed's train_batch_size must be such a product, so it is {self.deepspeed_batch_size} = "
                f"{product}; a step still has {self.global_batch_size} windows"
            )
        return notes


def plan_batch(global_batch_size: int, micro_batch_size: int, world_size: int) -> BatchPlan:
    """Split a global batch over ranks and gradient accumulation steps.

    accumulation = global batch / (maximum micro-batch x ranks), rounded up, and then
    micro-batch = global batch / (accumulation x ranks), rounded up.

    Args:
        micro_batch_size: maximum size, settings.batch.micro_batch_size.

    Raises:
        SettingsError: world_size is less than 1.
    """
    if world_size < 1:
        raise SettingsError(f"world size = {world_size}: at least one rank is needed")
    accumulation = math.ceil(global_batch_size / (micro_batch_size * world_size))
    largest = math.ceil(global_batch_size / (accumulation * world_size))
    return BatchPlan(global_batch_size, largest, accumulation, world_size, limit=micro_batch_size)
