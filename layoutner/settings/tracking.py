"""The [wandb] and [tensorboard] sections of Settings."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from layoutner.settings.section import Section, split_commas

LONGEST_PROJECT, NOT_IN_PROJECT = 128, "/\\#?%:"  # rules of Weights & Biases for the name of a project


class WandbSettings(Section):
    """[wandb]"""

    mode: Literal["online", "offline", "disabled"] = Field("disabled", description="mode of Weights & Biases")
    project: str = Field("layoutner", description="project name")
    entity: str | None = Field(None, description="user or team; default: that of the logged-in account")
    name: str | None = Field(None, description="name of the run; default: the run folder's")
    group: str | None = Field(
        None, description="group of the run; default: in a sweep or a cross-validation its folder's name, else none"
    )
    job_type: str | None = Field(
        None, description="job type of the run; default: in a sweep or a cross-validation sweep or fold, else train"
    )
    tags: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_commas)] = Field((), description="tags")
    log_pages: int = Field(
        0,
        ge=0,
        description="worst pages of the scored split to send, with images and words; 0 = no page leaves the machine",
    )
    log_model: Literal["none", "export"] = Field("none", description="export = send the exported model as an artifact")

    @field_validator("project")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not 0 < len(value) <= LONGEST_PROJECT or set(value) & set(NOT_IN_PROJECT):
            raise ValueError(
                f"{value!r}: a name has 1 to {LONGEST_PROJECT} characters and none of {' '.join(NOT_IN_PROJECT)}"
                + (" (a user or team goes into wandb.entity)" if "/" in value else "")
            )
        return value


class TensorBoardSettings(Section):
    """[tensorboard]"""

    enabled: bool = Field(False, description="write the metrics for TensorBoard too")
    dir: Path | None = Field(None, description="folder of its files; default: tensorboard/ in the run folder")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.dir is not None and "enabled" not in self.model_fields_set:
            raise ValueError(f"dir = {self.dir}, but enabled is not given: give enabled = true (writes there) or false")
        return self
