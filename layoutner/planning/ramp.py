"""Which windows each optimizer step takes, for a global batch that is constant or changes in phases: in closed form."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

Pairs = Sequence[tuple[int, int]]  # settings.batch.ramp


@dataclass(frozen=True)
class Portion:
    """The windows of one optimizer step: `size` entries of the order of an epoch, from entry `start` on."""

    epoch: int
    start: int
    size: int


@dataclass(frozen=True)
class Phase:
    """Optimizer steps in a row with the same global batch."""

    first: int  # optimizer steps done before it
    size: int  # windows per step; the last step of an epoch may have fewer
    trained: int = 0  # windows trained on before it, again in every epoch; 0 if the number of windows is not known


@dataclass(frozen=True)
class Ramp:
    """The phases of a run. A constant global batch is a single phase.

    Every epoch takes each of the windows once. A step takes the next windows of its epoch, as many as its phase says;
    the last step of an epoch takes what is left. A phase may begin within an epoch. Nothing takes time or memory in
    proportion to the number of steps.
    """

    phases: tuple[Phase, ...]
    windows: int | None  # training windows of an epoch; None if not known

    @classmethod
    def of(cls, global_batch_size: int, pairs: Pairs | None = None, windows: int | None = None) -> "Ramp":
        """The ramp of a run.

        Args:
            global_batch_size: of every step, without `pairs`.
            pairs: settings.batch.ramp. Neighbours of the same size are one phase.
            windows: training windows of an epoch.
        """
        phases: list[Phase] = []
        for first, size in pairs or [(0, global_batch_size)]:
            if not phases or phases[-1].size != size:
                trained = cls(tuple(phases), windows).trained(first) if phases and windows is not None else 0
                phases.append(Phase(first, size, trained))
        return cls(tuple(phases), windows)

    @property
    def changes(self) -> bool:
        """Whether the global batch changes during the run."""
        return len(self.phases) > 1

    @property
    def pairs(self) -> list[list[int]]:
        """The phases, as batch.ramp gives them."""
        return [[phase.first, phase.size] for phase in self.phases]

    @property
    def steps_an_epoch(self) -> int | None:
        """Optimizer steps of every epoch; None if they differ, or the number of windows is not known."""
        return None if self.changes or self.windows is None else -(-self.windows // self.phases[0].size)

    def phase(self, step: int) -> Phase:
        """The phase of optimizer step `step` (0-based)."""
        return self.phases[bisect_right(self.phases, step, key=lambda phase: phase.first) - 1]

    def begun(self, total: int) -> tuple[Phase, ...]:
        """The phases that begin in a run of `total` optimizer steps."""
        return tuple(phase for phase in self.phases if phase.first < total)

    def portion(self, step: int) -> Portion:
        """The windows of optimizer step `step` (0-based). The number of windows must be known."""
        assert self.windows is not None
        phase = self.phase(step)
        number, epoch, start = step - phase.first, *divmod(phase.trained, self.windows)
        to_finish = -(-(self.windows - start) // phase.size)  # steps from the beginning of the phase to an epoch's end
        if number >= to_finish:
            epochs, number = divmod(number - to_finish, -(-self.windows // phase.size))
            epoch, start = epoch + 1 + epochs, 0
        start += number * phase.size
        return Portion(epoch, start, min(phase.size, self.windows - start))

    def trained(self, steps: int) -> int:
        """Windows that `steps` optimizer steps train on, again in every epoch. Their number must be known."""
        assert self.windows is not None
        portion = self.portion(steps)
        return portion.epoch * self.windows + portion.start

    def steps_until(self, trained: int) -> int:
        """The fewest optimizer steps that train on at least this many windows. Their number must be known."""
        assert self.windows is not None
        number = bisect_left(self.phases, trained, key=lambda phase: phase.trained) - 1
        phase = self.phases[max(0, number)]
        left = trained - phase.trained
        of_its_epoch = self.windows - phase.trained % self.windows  # windows left of the epoch in which it begins
        if left <= of_its_epoch:
            return phase.first + -(-left // phase.size)
        epochs, rest = divmod(left - of_its_epoch, self.windows)
        whole_epochs = -(-of_its_epoch // phase.size) + epochs * -(-self.windows // phase.size)
        return phase.first + whole_epochs + -(-rest // phase.size)
