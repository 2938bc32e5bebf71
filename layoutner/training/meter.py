"""Metrics over optimizer steps: throughput, shares of the time, and consecutive fp16 overflows."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from layoutner.distributed.clock import Clock, Part
from layoutner.models.flops import NetworkFlops, per_second
from layoutner.settings.tree import PrecisionSettings
from layoutner.tracking.step_line import shares_text
from layoutner.training.step import StepResult

logger = logging.getLogger(__name__)

OVERFLOWS = 10  # number of consecutive skipped steps that causes a warning


# Parts of the time in which the gradient is computed and applied.
GOOD: tuple[Part, ...] = ("forward", "backward", "optimizer")


@dataclass
class Totals:
    """What some optimizer steps took and did, all ranks together."""

    seconds: float = 0.0  # without evaluation and saving
    tokens: int = 0  # without padding
    operations: float = 0.0  # model FLOPs
    loss: float = 0.0  # sum over the steps
    steps: int = 0


def _shares(before: dict[Part, float], now: dict[Part, float]) -> dict[Part, float]:
    passed = {part: now[part] - before[part] for part in now}
    whole = sum(passed.values())
    return {part: seconds / whole for part, seconds in passed.items()}


class Meter:
    """Time and work of the steps since the last logged step, and of all."""

    def __init__(self, precision: PrecisionSettings, clock: Clock, flops: NetworkFlops, peak: float) -> None:
        """Begin.

        Args:
            precision: [precision].
            clock: of this rank.
            flops: of the network.
            peak: operations a second of the matrix products of all ranks together, from `matmul_peak`.
        """
        self._precision, self._clock, self._flops, self._peak = precision, clock, flops, peak
        self._begin = self._before = clock.seconds()
        self._recent, self._all = Totals(), Totals()  # since the last logged step, and since the start
        self._overflows = 0  # in a row

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure the time of one step."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        for work in (self._recent, self._all):
            work.seconds += seconds

    def add(self, result: StepResult) -> None:
        """Count a step."""
        for work in (self._recent, self._all):
            work.tokens += int(result.lengths.sum())
            work.operations += self._flops.of_windows(result.lengths)
            work.loss += result.loss
            work.steps += 1
        self._overflows = 0 if result.applied else self._overflows + 1

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second of the steps since the last logged one. There must be one."""
        return self._recent.tokens / self._recent.seconds

    def metrics(self, result: StepResult, skipped_steps: int, peak_memory_gib: float, left: int) -> dict[str, float]:
        """The metrics of a logged step. Resets the counters.

        Args:
            result: result of this step.
            skipped_steps: number of skipped steps in the whole run.
            peak_memory_gib: peak memory of the rank that used the most.
            left: optimizer steps that are left. They are expected to take as long as those since the start, with
                evaluation and saving.
        """
        work, now = self._recent, self._clock.seconds()
        elapsed = sum(now.values()) - sum(self._begin.values())
        shares = _shares(self._before, now)
        self._recent, self._before = Totals(), now
        return {
            "train/loss": result.loss,
            "train/mean_loss": work.loss / work.steps,
            "train/lr": result.lr,
            "train/grad_norm": result.grad_norm,
            "train/loss_scale": result.loss_scale,
            "train/skipped_steps": skipped_steps,
            "throughput/tokens_per_s": work.tokens / work.seconds,
            "throughput/model_TFLOP_per_s": work.operations / work.seconds / 1e12,
            "throughput/mfu": work.operations / work.seconds / self._peak,
            "time/step_s": work.seconds / work.steps,
            "time/left_s": left * elapsed / self._all.steps,
            "memory/peak_GiB": peak_memory_gib,
            **{f"share/{part}": share for part, share in shares.items()},
        }

    def summary(self) -> str:
        """Where the time of all steps went, with evaluation and saving."""
        now, work = self._clock.seconds(), self._all
        if not work.steps:
            return "time: no optimizer step"
        shares = _shares(self._begin, now)
        seconds = sum(now.values()) - sum(self._begin.values())
        goodput = sum(shares[part] for part in GOOD)
        return (
            f"time: {seconds:.1f} s: {shares_text(shares)}; goodput {goodput:.1%} ({' + '.join(GOOD)}); in the steps "
            f"{work.tokens / work.seconds:.0f} tokens/s and {per_second(work.operations / work.seconds)}, "
            f"{work.operations / work.seconds / self._peak:.0%} of the {per_second(self._peak)} measured for matrix "
            "products"
        )

    def warn_of_overflow(self, step: int, loss_scale: float) -> None:
        """Warn of repeated overflows before the run fails: an overflow at the minimum loss scale ends it.

        Args:
            step: number of the last step.
            loss_scale: loss scale of the next step.
        """
        precision = self._precision
        at_floor = precision.loss_scale == 0 and loss_scale <= precision.min_loss_scale
        if self._overflows and (at_floor or self._overflows % OVERFLOWS == 0):
            floor = f"precision.min_loss_scale = {precision.min_loss_scale}, where the next overflow may end the run"
            now = f"its floor, {floor}" if at_floor else f"{loss_scale:g}"
            logger.warning(
                "warning: step %d: fp16 overflowed and the step was skipped, %d times in a row; the loss scale is at "
                "%s. Use precision.dtype = bf16, or try a lower optimizer.lr, more schedule.warmup_steps or, if the "
                "loss scale is fixed, a lower precision.loss_scale",
                step,
                self._overflows,
                now,
            )
