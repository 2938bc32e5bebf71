"""A part of the Settings tree."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


def split_commas(value: Any) -> Any:
    """A list may be written "a,b" in the environment and on the command line."""
    if isinstance(value, str):
        return [part.strip() for part in value.strip("[]()").split(",") if part.strip()]
    return value


class Section(BaseModel):
    """A frozen part of the tree that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic would take true for 1.
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError(f"{value}: this setting is no switch".lower())
        return value
