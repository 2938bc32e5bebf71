"""A ramp of the global batch that follows the noise scales which a run has measured. Does not import torch."""

import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from layoutner.errors import CheckpointError
from layoutner.planning.ramp import Ramp
from layoutner.runs.folds import settings_of_run
from layoutner.settings.tree import Settings
from layoutner.tracking.trackers import METRICS_FILE, read_metrics

NOISE = "gradient/noise_scale_windows"
PARTS = 10  # of a run, each with the median of its noise scales


@dataclass(frozen=True)
class NoiseRamp:
    """The noise scales of a run, and the ramp that follows them."""

    settings: Settings  # of the run
    steps: int  # optimizer steps of the run
    scales: tuple[float | None, ...]  # by part of the run, in windows; None = nothing was measured

    @property
    def sizes(self) -> list[int]:
        """The global batch by part of the run.

        It is that of the run, doubled as often as it does not exceed the noise scale of this part or an earlier one.
        """
        size, sizes = self.settings.batch.global_batch_size, []
        largest = size * (self.steps // PARTS)  # the windows of a part, so that each has a step
        for scale in self.scales:
            if scale is not None and min(scale, largest) >= 2 * size:
                size *= 2 ** math.floor(math.log2(min(scale, largest) / size))
            sizes.append(size)
        return sizes

    @property
    def pairs(self) -> list[list[int]]:
        """The ramp: optimizer steps done, and windows per step from then on.

        A part of the run takes about as many windows as before, in steps that are larger and fewer.
        """
        return Ramp.of(self.settings.batch.global_batch_size, self._parts[:-1]).pairs

    @property
    def _parts(self) -> list[tuple[int, int]]:
        """Optimizer steps done before each part and its batch; at the end those of all."""
        before, parts, done = self.settings.batch.global_batch_size, [], 0
        for part, size in enumerate(self.sizes):
            parts.append((done, size))
            steps = (part + 1) * self.steps // PARTS - part * self.steps // PARTS
            done += math.ceil(steps * before / size)
        return [*parts, (done, self.sizes[-1])]

    def __str__(self) -> str:
        scales = ", ".join("none" if scale is None else f"{scale:.3g}" for scale in self.scales)
        lines = [f"# noise scale by tenth of {self.steps} steps, in windows: {scales}"]
        batch, pairs = self.settings.batch, self.pairs
        if pairs == [[0, batch.global_batch_size]]:
            double = 2 * batch.global_batch_size
            return "\n".join([*lines, f"# It stays below {double} windows, so twice the batch is never worth it here."])
        lines += ["[batch]", f"global_batch_size = {pairs[-1][1]}"]
        lines += [f"ramp = {pairs}"] if len(pairs) > 1 else []
        if batch.reference_batch_size is None:
            lines += [f"reference_batch_size = {batch.global_batch_size}", "", "[optimizer]", 'scale_lr = "sqrt"']
        if self.settings.schedule.max_steps is not None:
            lines += ["", "[schedule]", f"max_steps = {self._parts[-1][0]}"]
        return "\n".join(lines)


def noise_ramp(run: Path) -> NoiseRamp:
    """Read the noise scales of a run.

    Raises:
        CheckpointError: the folder has no run, its batch was not constant, or too few of its steps were measured.
    """
    settings, rows = settings_of_run(run), read_metrics(run / METRICS_FILE)
    if settings.batch.ramp is not None:
        raise CheckpointError(f"{run}: had a batch.ramp already: measure a run with a constant batch")
    steps = max((row["step"] for row in rows), default=0)
    parts: list[list[float]] = [[] for _ in range(PARTS)]
    for row in rows:
        if row.get(NOISE) is not None:
            parts[(row["step"] - 1) * PARTS // steps].append(row[NOISE])
    measured = sum(map(len, parts))
    if measured < PARTS:
        raise CheckpointError(
            f"{run}: {measured} of its {steps} steps have a noise scale, and a ramp needs {PARTS}: train it with "
            f"run.gradient_statistics_every = {max(1, steps // (10 * PARTS))}"
        )
    return NoiseRamp(settings, steps, tuple(statistics.median(part) if part else None for part in parts))
