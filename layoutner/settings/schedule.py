"""[schedule]: the length of a run, and its learning rate curve."""

from typing import Literal, Self

from pydantic import Field, model_validator

from layoutner.settings.section import Section

Shape = Literal["linear", "cosine", "polynomial", "constant", "1-sqrt"]


class ScheduleSettings(Section):
    """[schedule]: linear warm-up from 0 to optimizer.lr, then the decay of `shape`."""

    epochs: int | None = Field(None, ge=1, description="passes over the training windows; give this or max_steps")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps of the run; give this or epochs")
    warmup_steps: int | None = Field(None, ge=0, description="optimizer steps of warm-up; give this or warmup_ratio")
    warmup_ratio: float | None = Field(None, ge=0, le=1, description="warm-up as a share of the optimizer steps")
    shape: Shape = Field(
        "linear",
        description="learning rate after the warm-up: linear, cosine or polynomial decay to 0 at the end; constant; "
        "1-sqrt = constant, then a decay to 0 over the last decay_ratio of the steps",
    )
    power: float | None = Field(None, gt=0, description="polynomial: exponent; default: 2")
    decay_ratio: float | None = Field(
        None, gt=0, le=1, description="1-sqrt: share of the optimizer steps in the decay; default: 0.2"
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        for first, second in (("epochs", "max_steps"), ("warmup_steps", "warmup_ratio")):
            one, other = getattr(self, first), getattr(self, second)
            if one is not None and other is not None:
                raise ValueError(f"{first} = {one} and {second} = {other}: give one of the two")
        for key, shape in (("power", "polynomial"), ("decay_ratio", "1-sqrt")):
            if getattr(self, key) is not None and self.shape != shape:
                raise ValueError(f"{key} = {getattr(self, key)}: shape = {self.shape} has none; only {shape} has")
        return self
