"""Metrics over optimizer steps: throughput and consecutive fp16 overflows."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from layoutner.settings.tree import PrecisionSettings
from layoutner.training.step import StepResult

logger = logging.getLogger(__name__)

OVERFLOWS = 10  # number of consecutive skipped steps that causes a warning


class Meter:
    """Time and tokens of the steps since the last logged step, without evaluation and saving."""

    def __init__(self, precision: PrecisionSettings) -> None:
        self._precision = precision
        self._seconds, self._tokens, self._steps = 0.0, 0, 0
        self._overflows = 0  # in a row

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure the time of one step."""
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start

    def add(self, result: StepResult) -> None:
        """Count a step."""
        self._tokens += result.tokens
        self._steps += 1
        self._overflows = 0 if result.applied else self._overflows + 1

    def metrics(self, result: StepResult, skipped_steps: int, peak_memory_gib: float) -> dict[str, float]:
        """The metrics of a logged step. Resets the counters.

        Args:
            result: result of this step.
            skipped_steps: number of skipped steps in the whole run.
            peak_memory_gib: peak memory of the rank that used the most.
        """
        found = {
            "train/loss": result.loss,
            "train/lr": result.lr,
            "train/grad_norm": result.grad_norm,
            "train/loss_scale": result.loss_scale,
            "train/skipped_steps": skipped_steps,
            "throughput/tokens_per_s": self._tokens / self._seconds,
            "time/step_s": self._seconds / self._steps,
            "memory/peak_GiB": peak_memory_gib,
        }
        self._seconds, self._tokens, self._steps = 0.0, 0, 0
        return found

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
