"""How the windows of one optimizer step are split: global = micro x accumulation x ranks, exactly."""

from dataclasses import dataclass

from layoutner.errors import UserError


@dataclass(frozen=True)
class BatchPlan:
    """The three batch numbers of DeepSpeed, and the number of ranks that ties them together."""

    global_batch_size: int  # windows per optimizer step, all ranks
    micro_batch_size: int  # windows per forward of one rank
    accumulation: int  # gradient accumulation steps: micro-batches of one rank per full optimizer step
    world_size: int

    def __str__(self) -> str:
        return (
            f"{self.global_batch_size} windows a step = {self.micro_batch_size} a forward "
            f"x {self.accumulation} accumulation x {self.world_size} rank{'s' * (self.world_size > 1)}"
        )


def plan_batch(global_batch_size: int, micro_batch_size: int, world_size: int) -> BatchPlan:
    """Solve for the gradient accumulation steps.

    Raises:
        UserError: micro_batch_size x ranks does not divide global_batch_size. The message names the nearest
            global batches, micro-batches and numbers of ranks that would.
    """
    if world_size < 1:
        raise UserError(f"world size = {world_size}: at least one rank is needed")
    at_once = micro_batch_size * world_size
    if global_batch_size % at_once == 0:
        return BatchPlan(global_batch_size, micro_batch_size, global_batch_size // at_once, world_size)
    below, above = global_batch_size // at_once * at_once, -(-global_batch_size // at_once) * at_once
    choices = [f"batch.global_batch_size = {' or '.join(str(n) for n in (below, above) if n)}"]
    if global_batch_size % world_size == 0:
        share = global_batch_size // world_size
        divisors = [n for n in range(1, min(share, 10_000) + 1) if share % n == 0]
        near = sorted(sorted(divisors, key=lambda n: abs(n - micro_batch_size))[:2])
        choices.append(f"batch.micro_batch_size = {' or '.join(map(str, near))}")
    if global_batch_size % micro_batch_size == 0:
        quotient = global_batch_size // micro_batch_size
        worlds = [n for n in range(1, min(quotient, 10_000) + 1) if quotient % n == 0]
        near = sorted(sorted(worlds, key=lambda n: abs(n - world_size))[:2])
        choices.append(f"{' or '.join(map(str, near))} rank(s)")
    raise UserError(
        f"batch.global_batch_size = {global_batch_size} is not batch.micro_batch_size = {micro_batch_size} x "
        f"accumulation x {world_size} rank(s): {micro_batch_size} x {world_size} = {at_once} does not divide "
        f"{global_batch_size}. "
        f"Nearest that fit: {'; or '.join(choices)}"
    )
