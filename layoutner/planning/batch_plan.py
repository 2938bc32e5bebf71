"""How the windows of one optimizer step are split over ranks and micro-batches, exactly, on any number of ranks."""

import math
from dataclasses import dataclass

from layoutner.errors import SettingsError


@dataclass(frozen=True)
class BatchPlan:
    """One full optimizer step: as few micro-batches as hold it, of sizes that differ by one window at most.

    `corpus.batches.assign_to_ranks` deals windows so. The loss divides by what the whole global batch weighs, so that
    micro-batches of different sizes, or empty ones, change nothing about the gradient.
    """

    global_batch_size: int  # windows per optimizer step, all ranks
    micro_batch_size: int  # windows of the largest micro-batch
    accumulation: int  # gradient accumulation steps: micro-batches of one rank per full optimizer step
    world_size: int
    limit: int  # the largest micro-batch allowed, settings.batch.micro_batch_size

    @property
    def micro_batches(self) -> int:
        """Micro-batches of all ranks."""
        return self.accumulation * self.world_size

    @property
    def deepspeed_batch_size(self) -> int:
        """DeepSpeed's train_batch_size, which must be micro x accumulation x ranks.

        Above the global batch where that is no such product. Nothing is computed from it.
        """
        return self.micro_batch_size * self.micro_batches

    def __str__(self) -> str:
        ranks = f"{self.accumulation} accumulation x {self.world_size} rank{'s' * (self.world_size > 1)}"
        limit = f" (at most {self.limit})" * (self.micro_batch_size < self.limit)
        small, larger = divmod(self.global_batch_size, self.micro_batches)
        if not larger:
            return f"{self.global_batch_size} windows a step = {small} a forward{limit} x {ranks}"
        smaller = self.micro_batches - larger
        return (
            f"{self.global_batch_size} windows a step = {smaller} forward{'s' * (smaller > 1)} of {small} "
            f"+ {larger} of {small + 1}{limit}, in {ranks}"
        )

    @property
    def notes(self) -> list[str]:
        """What is worth knowing about the split."""
        notes = []
        if self.global_batch_size < self.world_size:
            notes.append(
                f"note: {self.world_size} ranks share {self.global_batch_size} windows, so in every step "
                f"{self.world_size - self.global_batch_size} of them have none: fewer ranks are as fast, and a "
                f"batch.global_batch_size of {self.world_size} or more gives all of them work"
            )
        if self.deepspeed_batch_size != self.global_batch_size:
            product = f"{self.micro_batch_size} x {self.accumulation} x {self.world_size}"
            notes.append(
                f"note: DeepSpeed takes a product only, so its train_batch_size is {self.deepspeed_batch_size} = "
                f"{product}; a step is {self.global_batch_size} windows all the same"
            )
        return notes


def plan_batch(global_batch_size: int, micro_batch_size: int, world_size: int) -> BatchPlan:
    """Split a global batch over ranks and gradient accumulation steps.

    accumulation = global batch / (largest micro-batch x ranks), rounded up, and then
    micro-batch = global batch / (accumulation x ranks), rounded up.

    Args:
        micro_batch_size: the largest allowed, settings.batch.micro_batch_size.

    Raises:
        SettingsError: no rank.
    """
    if world_size < 1:
        raise SettingsError(f"world size = {world_size}: at least one rank is needed")
    accumulation = math.ceil(global_batch_size / (micro_batch_size * world_size))
    largest = math.ceil(global_batch_size / (accumulation * world_size))
    return BatchPlan(global_batch_size, largest, accumulation, world_size, limit=micro_batch_size)
