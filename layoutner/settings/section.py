"""Base class of the sections of Settings."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


def split_commas(value: Any) -> Any:
    """Split "a,b" into a list, for lists given in the environment or on the command line."""
    if isinstance(value, str):
        return [part.strip() for part in value.strip("[]()").split(",") if part.strip()]
    return value


def split_pairs(value: Any) -> Any:
    """Split "0:16,200:32" into pairs of whole numbers, for such lists in the environment or on the command line."""
    if not isinstance(value, str):
        return value
    pairs = [part.split(":") for part in split_commas(value)]
    if not all(len(pair) == 2 and all(number.strip().isdecimal() for number in pair) for pair in pairs):
        raise ValueError(f"{value}: give pairs of whole numbers, as in 0:16,200:32")
    return [[int(number) for number in pair] for pair in pairs]


class Section(BaseModel):
    """An immutable section of Settings that rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic would convert true to 1.
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError(f"{value}: this setting takes neither true nor false".lower())
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _no_half_character(cls, value: Any) -> Any:
        # Lone surrogates come from file names that are not UTF-8. settings.toml is UTF-8 and cannot contain them.
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            escaped = value.encode("utf-8", "backslashreplace").decode("utf-8")  # pydantic's messages must be UTF-8
            raise ValueError(f"{escaped}: not in UTF-8; give the file or folder another name")
        return value
