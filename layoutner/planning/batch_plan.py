"""How the windows of one optimizer step are split: global = micro x accumulation x ranks, exactly."""

from dataclasses import dataclass

from layoutner.errors import UserError


@dataclass(frozen=True)
class BatchPlan:
    """The three batch numbers of DeepSpeed, and the number of ranks that ties them together."""

    global_windows: int  # per optimizer step, all ranks
    micro_windows: int  # per forward, one rank
    accumulation: int  # forwards of one rank per full optimizer step
    ranks: int

    def __str__(self) -> str:
        return (
            f"{self.global_windows} windows a step = {self.micro_windows} a forward "
            f"x {self.accumulation} accumulation x {self.ranks} rank{'s' * (self.ranks > 1)}"
        )


def plan_batch(global_windows: int, micro_windows: int, ranks: int) -> BatchPlan:
    """Solve for the accumulation.

    Raises:
        UserError: micro_windows x ranks does not divide global_windows. The message names the nearest
            global batches, micro-batches and numbers of ranks that would.
    """
    if ranks < 1:
        raise UserError(f"world size = {ranks}: at least one rank is needed")
    at_once = micro_windows * ranks
    if global_windows % at_once == 0:
        return BatchPlan(global_windows, micro_windows, global_windows // at_once, ranks)
    below, above = global_windows // at_once * at_once, -(-global_windows // at_once) * at_once
    choices = [f"batch.global_windows = {' or '.join(str(n) for n in (below, above) if n)}"]
    if global_windows % ranks == 0:
        share = global_windows // ranks
        divisors = [n for n in range(1, min(share, 10_000) + 1) if share % n == 0]
        near = sorted(sorted(divisors, key=lambda n: abs(n - micro_windows))[:2])
        choices.append(f"batch.micro_windows = {' or '.join(map(str, near))}")
    if global_windows % micro_windows == 0:
        quotient = global_windows // micro_windows
        worlds = [n for n in range(1, min(quotient, 10_000) + 1) if quotient % n == 0]
        near = sorted(sorted(worlds, key=lambda n: abs(n - ranks))[:2])
        choices.append(f"{' or '.join(map(str, near))} rank(s)")
    raise UserError(
        f"batch.global_windows = {global_windows} is not batch.micro_windows = {micro_windows} x accumulation "
        f"x {ranks} rank(s): {micro_windows} x {ranks} = {at_once} does not divide {global_windows}. "
        f"Nearest that fit: {'; or '.join(choices)}"
    )
