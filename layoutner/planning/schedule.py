"""Number of optimizer steps, and the learning rate of each step in closed form. Tests compare runs with it."""

import math
from dataclasses import dataclass

from layoutner.errors import SettingsError
from layoutner.planning.ramp import Pairs, Ramp
from layoutner.settings.schedule import ScheduleSettings, Shape

POWER = 2.0  # of polynomial decay, unless schedule.power says otherwise
DECAY_RATIO = 0.2  # of 1-sqrt, unless schedule.decay_ratio says otherwise


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from 0 over `warmup` steps, then the decay of `shape` until `total`."""

    total: int  # optimizer steps of the run
    warmup: int  # of these, warm-up steps
    ramp: Ramp  # windows of each step
    origin: str  # how `total` was computed, for the log
    shape: Shape = "linear"
    power: float = POWER  # exponent of polynomial decay
    decay: int = 0  # steps of the decay of 1-sqrt, at the end

    @property
    def steps_an_epoch(self) -> int | None:
        """Optimizer steps of every epoch; None if they differ, or the number of windows is not known."""
        return self.ramp.steps_an_epoch

    def factor(self, step: int) -> float:
        """Learning rate of optimizer step `step` (0-based), as a fraction of the peak.

        With k = step, W = warmup and T = total, it is k / max(1, W) for k < W, as in transformers' schedules
        (optimization.py). Then, with p = (k - W) / max(1, T - W): linear 1 - p, cosine (1 + cos(pi p)) / 2, polynomial
        (1 - p)^power, constant 1. The shape 1-sqrt is constant until T - D, then 1 - sqrt((k - (T - D)) / D) with
        D = decay (arXiv:2405.18392, equation 1).
        """
        if step < self.warmup:
            return step / max(1, self.warmup)
        if self.shape == "constant":
            return 1.0
        if self.shape == "1-sqrt":
            return 1 - math.sqrt(min(1.0, max(0, step - (self.total - self.decay)) / self.decay))
        left = max(0.0, (self.total - step) / max(1, self.total - self.warmup))
        if self.shape == "cosine":
            return (1 - math.cos(math.pi * left)) / 2
        return left if self.shape == "linear" else left**self.power

    # DeepSpeed has the linear curve as WarmupDecayLR. It uses at least 2 warm-up steps (deepspeed/runtime/
    # lr_schedules.py: max(2, W)) and applies position -1 in the first step. Its decay depends only on T - W. So adding
    # the same shift to T and W, and setting the position before each step, makes it equal to the closed form. For the
    # other shapes no scheduler of DeepSpeed is used: its WarmupCosineLR never reaches the peak.

    @property
    def in_deepspeed(self) -> bool:
        """Whether a scheduler of DeepSpeed has this curve. Otherwise the engine sets the learning rate."""
        return self.shape == "linear"

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

    @property
    def _decay_text(self) -> str:
        if self.shape == "linear":
            return ""
        if self.shape == "1-sqrt":
            return f", 1-sqrt decay over the last {self.decay}"
        if self.shape == "polynomial":
            return f", polynomial decay with power {self.power:g}"
        return ", cosine decay" if self.shape == "cosine" else ", then constant"

    def __str__(self) -> str:
        lines = [f"{self.total} optimizer steps ({self.origin}), {self.warmup} of them warm-up{self._decay_text}"]
        windows, steps, size = self.ramp.windows, self.steps_an_epoch, self.ramp.phases[0].size
        if self.ramp.changes:
            lines.append(self._ramp_text)
        elif windows is not None and steps is not None:
            rest = windows - (steps - 1) * size
            last = "" if rest == size else f", the last of them with {rest} windows"
            lines.append(f"{steps} steps per epoch = {windows} windows / {size} per step, rounded up{last}")
        return "; ".join(lines)

    @property
    def _ramp_text(self) -> str:
        phases = self.ramp.begun(self.total)
        ends = [*(phase.first for phase in phases[1:]), self.total]
        parts = [f"{end - phase.first} steps of {phase.size} windows" for phase, end in zip(phases, ends, strict=True)]
        text = ", then ".join(parts)
        if self.ramp.windows is None:
            return text
        trained = self.ramp.trained(self.total)
        return f"{text}; {trained} windows = {round(trained / self.ramp.windows, 2):g} epochs of {self.ramp.windows}"

    @property
    def notes(self) -> list[str]:
        """Notes for the user: phases of the ramp that never begin."""
        never = self.ramp.phases[len(self.ramp.begun(self.total)) :]
        if not never:
            return []
        sizes = ", ".join(f"{phase.size} windows after {phase.first} steps" for phase in never)
        return [
            f"warning: batch.ramp: {sizes}, but the run has {self.total} optimizer steps, so it never gets there: give "
            "a longer schedule, or an earlier ramp"
        ]


def plan_schedule(
    settings: ScheduleSettings, global_batch_size: int, windows: int | None, ramp: Pairs | None = None
) -> Schedule:
    """Compute the number of optimizer steps and of warm-up steps.

    Args:
        windows: number of training windows; may be None if max_steps is set.
        ramp: settings.batch.ramp.

    Raises:
        SettingsError: none of epochs, max_steps and max_windows is set; epochs or max_windows without `windows`; more
            steps of warm-up, or of warm-up and decay, than steps.
    """
    batches = Ramp.of(global_batch_size, ramp, windows)
    if settings.max_steps is not None:
        total, origin = settings.max_steps, "schedule.max_steps"
    elif settings.epochs is None and settings.max_windows is None:
        raise SettingsError(
            "the schedule has no length: give schedule.epochs, schedule.max_steps or schedule.max_windows"
        )
    elif windows is None:
        key = "max_windows" if settings.epochs is None else "epochs"
        raise SettingsError(
            f"schedule.{key} = {getattr(settings, key)} needs the number of training windows to become optimizer "
            "steps: give --windows N, or data.train and model.name_or_path, or schedule.max_steps instead"
        )
    elif settings.epochs is not None:
        total = batches.steps_until(settings.epochs * windows)
        each = f" of {windows} windows" if batches.changes else f" x {batches.steps_an_epoch} steps"
        origin = f"{settings.epochs} epochs{each}"
    else:
        assert settings.max_windows is not None
        total = batches.steps_until(settings.max_windows)
        trained = "" if batches.changes else f": they train on {batches.trained(total)}"
        origin = f"schedule.max_windows = {settings.max_windows}{trained}"
    if settings.warmup_ratio is not None:
        warmup = math.ceil(settings.warmup_ratio * total)
    else:
        warmup = settings.warmup_steps or 0
    if warmup > total:
        raise SettingsError(
            f"schedule.warmup_steps = {warmup} is more than the {total} optimizer steps of the run: "
            "the peak learning rate would never be reached; warm up for less, or train for longer"
        )
    ratio = DECAY_RATIO if settings.decay_ratio is None else settings.decay_ratio
    decay = math.ceil(round(ratio * total, 6)) if settings.shape == "1-sqrt" else 0
    if decay > total - warmup:
        raise SettingsError(
            f"schedule: {warmup} steps of warm-up and {decay} of decay ({ratio:g} of {total}, rounded up) are more "
            f"than the {total} optimizer steps of the run: lower schedule.decay_ratio or the warm-up"
        )
    power = POWER if settings.power is None else settings.power
    return Schedule(total, warmup, batches, origin, settings.shape, power, decay)
