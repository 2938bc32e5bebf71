"""[schedule]: the length of a run, and its learning rate curve."""

from typing import Literal, Self

from pydantic import Field, model_validator

from layoutner.settings.section import Section

Shape = Literal["linear", "cosine", "polynomial", "constant", "1-sqrt"]


class ScheduleSettings(Section):
    """[schedule]: linear warm-up from 0 to optimizer.lr, then the decay of `shape`."""

    epochs: int | None = Field(
        None, ge=1, description="passes over the training windows; give this, max_steps or max_windows"
    )
    max_steps: int | None = Field(
        None, ge=1, description="optimizer steps of the run; give this, epochs or max_windows"
    )
    max_windows: int | None = Field(
        None,
        ge=1,
        description="windows that the run trains on, counted again in every epoch: it ends with the optimizer step "
        "that reaches this number; give this, epochs or max_steps",
    )
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
        for keys in (("epochs", "max_steps", "max_windows"), ("warmup_steps", "warmup_ratio")):
            given = [f"{key} = {getattr(self, key)}" for key in keys if getattr(self, key) is not None]
            if len(given) > 1:
                raise ValueError(f"{' and '.join(given)}: give one of the {'two' if len(given) == 2 else 'three'}")
        for key, shape in (("power", "polynomial"), ("decay_ratio", "1-sqrt")):
            if getattr(self, key) is not None and self.shape != shape:
                raise ValueError(f"{key} = {getattr(self, key)}: shape = {self.shape} has none; only {shape} has")
        return self
