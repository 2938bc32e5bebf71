"""Split the global batch of an optimizer step over ranks and micro-batches, exactly, for any number of ranks."""

import math
from dataclasses import dataclass

from layoutner.errors import SettingsError
from layoutner.planning.ramp import Ramp
from layoutner.settings.tree import Settings


@dataclass(frozen=True)
class MicroBatchLimit:
    """The largest micro-batch of one rank."""

    windows: int
    tokens: int | None = None  # with padding; None: no limit but `windows`


@dataclass(frozen=True)
class BatchPlan:
    """Split of one full optimizer step into micro-batches: as few as possible, of at most `micro_batch_size` windows.

    `corpus.batches.assign_to_ranks` assigns the windows. It makes more micro-batches where windows of very different
    lengths would be padded, or where `tokens_limit` asks for it. The loss is divided by the weight of the whole global
    batch, so micro-batches of different sizes, more of them, or empty ones do not change the gradient.
    """

    global_batch_size: int  # windows per optimizer step, all ranks
    micro_batch_size: int  # windows of the largest micro-batch
    accumulation: int  # gradient accumulation steps: micro-batches of one rank per full optimizer step
    world_size: int
    limit: int  # the largest micro-batch allowed, settings.batch.micro_batch_size
    tokens_limit: int | None = None  # settings.batch.micro_batch_tokens

    @property
    def micro_batch_limit(self) -> MicroBatchLimit:
        """The largest micro-batch of a step."""
        return MicroBatchLimit(self.micro_batch_size, self.tokens_limit)

    def of_size(self, global_batch_size: int) -> "BatchPlan":
        """The plan of steps of another size, with the same limits on the same ranks."""
        return plan_batch(global_batch_size, self.limit, self.world_size, self.tokens_limit)

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
        ranks = (
            f"{self.accumulation} gradient accumulation step{'s' * (self.accumulation > 1)} x "
            f"{self.world_size} rank{'s' * (self.world_size > 1)}"
        )
        limit = f" (at most {self.limit})" * (self.micro_batch_size < self.limit)
        tokens = "" if self.tokens_limit is None else f", each of at most {self.tokens_limit} tokens"
        small, larger = divmod(self.global_batch_size, self.micro_batches)
        if not larger:
            return f"{self.global_batch_size} windows per step = {small} per micro-batch{limit} x {ranks}{tokens}"
        smaller = self.micro_batches - larger
        return (
            f"{self.global_batch_size} windows per step = {smaller} micro-batch{'es' * (smaller > 1)} of {small} "
            f"+ {larger} of {small + 1}{limit}, in {ranks}{tokens}"
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
        if self.tokens_limit is not None:
            notes.append(
                f"note: a step with long windows has more micro-batches than DeepSpeed's gradient_accumulation_steps = "
                f"{self.accumulation}, so that none exceeds {self.tokens_limit} tokens; its gradient is the same"
            )
        return notes


def plan_batch(
    global_batch_size: int, micro_batch_size: int, world_size: int, micro_batch_tokens: int | None = None
) -> BatchPlan:
    """Split a global batch over ranks and gradient accumulation steps.

    accumulation = global batch / (maximum micro-batch x ranks), rounded up, and then
    micro-batch = global batch / (accumulation x ranks), rounded up.

    Args:
        micro_batch_size: maximum windows of a micro-batch, settings.batch.micro_batch_size.
        micro_batch_tokens: maximum tokens of a micro-batch, settings.batch.micro_batch_tokens.

    Raises:
        SettingsError: world_size is less than 1.
    """
    if world_size < 1:
        raise SettingsError(f"world size = {world_size}: at least one rank is needed")
    accumulation = math.ceil(global_batch_size / (micro_batch_size * world_size))
    largest = math.ceil(global_batch_size / (accumulation * world_size))
    return BatchPlan(global_batch_size, largest, accumulation, world_size, micro_batch_size, micro_batch_tokens)


def largest_of(batch: BatchPlan, ramp: Ramp) -> BatchPlan:
    """The plan of the steps with the largest micro-batches, which need not be those of the last phase."""
    if not ramp.changes:
        return batch
    return max((batch.of_size(phase.size) for phase in ramp.phases), key=lambda plan: plan.micro_batch_size)


def describe(batch: BatchPlan, ramp: Ramp) -> list[str]:
    """How the steps of a run are split, for its log: a line per phase, then notes.

    Args:
        batch: the plan of the last phase.
    """
    if not ramp.changes:
        return [f"batch: {batch}", *batch.notes]
    lines = [
        f"batch: {f'after {phase.first} steps ' if phase.first else ''}{batch.of_size(phase.size)}"
        for phase in ramp.phases
    ]
    lines += [
        f"note: {batch.world_size} ranks share {phase.size} windows in the steps of that size, so "
        f"{batch.world_size - phase.size} of them have nothing to do there"
        for phase in ramp.phases[:-1]
        if phase.size < batch.world_size
    ]
    lines.append("note: the DeepSpeed JSON has the numbers of the last size; nothing is computed from them")
    return [*lines, *batch.notes]


def plan_settings(settings: Settings, world_size: int) -> BatchPlan:
    """`plan_batch` for the settings of a run.

    Raises:
        SettingsError: batch.micro_batch_tokens is too small for a window of data.max_length; batch.micro_batch_size has
            no number yet.
    """
    batch, max_length = settings.batch, settings.data.max_length
    if batch.micro_batch_size == "auto":
        raise SettingsError(
            "batch.micro_batch_size = auto is found out by `layoutner train` on its device: give a number here; "
            "`layoutner config plan --gpu-memory` names the largest that fits"
        )
    if batch.micro_batch_tokens is not None and batch.micro_batch_tokens < max_length:
        raise SettingsError(
            f"batch.micro_batch_tokens = {batch.micro_batch_tokens} is less than data.max_length = {max_length}, so a "
            "full window would not fit into a micro-batch: raise it, or lower data.max_length"
        )
    return plan_batch(batch.global_batch_size, batch.micro_batch_size, world_size, batch.micro_batch_tokens)


def with_micro_batch(settings: Settings, micro_batch_size: int) -> Settings:
    """The settings with this batch.micro_batch_size."""
    batch = settings.batch.model_copy(update={"micro_batch_size": micro_batch_size})
    return settings.model_copy(update={"batch": batch})
