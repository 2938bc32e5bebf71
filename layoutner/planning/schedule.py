"""Number of optimizer steps, and the learning rate of each step in closed form. Tests compare runs with it."""

import math
from dataclasses import dataclass

from layoutner.errors import SettingsError
from layoutner.settings.tree import ScheduleSettings


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from 0 over `warmup` steps, then linear decay to 0 at `total`."""

    total: int  # optimizer steps of the run
    warmup: int  # of these, warm-up steps
    steps_an_epoch: int | None  # None if the number of windows is not known
    windows: int | None  # number of training windows; None if not known
    global_batch_size: int
    origin: str  # how `total` was computed, for the log

    def factor(self, step: int) -> float:
        """Learning rate of optimizer step `step` (0-based), as a fraction of the peak.

        The closed form of transformers' get_linear_schedule_with_warmup (optimization.py):
        k / max(1, W) for k < W, else max(0, (T - k) / max(1, T - W)).
        """
        if step < self.warmup:
            return step / max(1, self.warmup)
        return max(0.0, (self.total - step) / max(1, self.total - self.warmup))

    # DeepSpeed's WarmupDecayLR uses at least 2 warm-up steps (deepspeed/runtime/lr_schedules.py: max(2, W)) and applies
    # position -1 in the first step. Its decay depends only on T - W. So adding the same shift to T and W, and setting
    # the position before each step, makes it equal to the closed form.

    @property
    def _shift(self) -> int:
        return max(2, self.warmup) - self.warmup

    @property
    def deepspeed_warmup_num_steps(self) -> int:
        return self.warmup + self._shift

    @property
    def deepspeed_total_num_steps(self) -> int:
        return self.total + self._shift

    def deepspeed_position(self, step: int) -> int:
        """`last_batch_iteration` at which WarmupDecayLR gives factor(step)."""
        return step if step < self.warmup else step + self._shift

    def __str__(self) -> str:
        lines = [f"{self.total} optimizer steps ({self.origin}), {self.warmup} of them warm-up"]
        if self.windows is not None and self.steps_an_epoch is not None:
            rest = self.windows - (self.steps_an_epoch - 1) * self.global_batch_size
            last = "" if rest == self.global_batch_size else f", the last of them with {rest} windows"
            lines.append(
                f"{self.steps_an_epoch} steps per epoch = {self.windows} windows / {self.global_batch_size} "
                f"per step, rounded up{last}"
            )
        return "; ".join(lines)


def plan_schedule(settings: ScheduleSettings, global_batch_size: int, windows: int | None) -> Schedule:
    """Compute the number of optimizer steps and of warm-up steps.

    Args:
        windows: number of training windows; may be None if max_steps is set.

    Raises:
        SettingsError: neither epochs nor max_steps is set; epochs without `windows`; more warm-up steps than steps.
    """
    an_epoch = None if windows is None else math.ceil(windows / global_batch_size)
    if settings.max_steps is not None:
        total, origin = settings.max_steps, "schedule.max_steps"
    elif settings.epochs is None:
        raise SettingsError("the schedule has no length: give schedule.epochs or schedule.max_steps")
    elif an_epoch is None:
        raise SettingsError(
            f"schedule.epochs = {settings.epochs} needs the number of training windows to become optimizer steps: "
            "give --windows N, or data.train and model.name_or_path, or schedule.max_steps instead"
        )
    else:
        total = settings.epochs * an_epoch
        origin = f"{settings.epochs} epochs x {an_epoch} steps"
    if settings.warmup_ratio is not None:
        warmup = math.ceil(settings.warmup_ratio * total)
    else:
        warmup = settings.warmup_steps or 0
    if warmup > total:
        raise SettingsError(
            f"schedule.warmup_steps = {warmup} is more than the {total} optimizer steps of the run: "
            "the peak learning rate would never be reached; warm up for less, or train for longer"
        )
    return Schedule(total, warmup, an_epoch, windows, global_batch_size, origin)
