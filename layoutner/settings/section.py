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

    @field_validator("*", mode="before")
    @classmethod
    def _no_half_character(cls, value: Any) -> Any:
        # As a file name is read whose bytes are not UTF-8. The record of the run is, and could not hold it.
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            escaped = value.encode("utf-8", "backslashreplace").decode("utf-8")  # pydantic takes no other message
            raise ValueError(f"{escaped}: not in UTF-8; give the file or folder another name")
        return value
