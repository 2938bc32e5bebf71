"""The scores of a run as a file, which a later cross-validation and the model card read back."""

from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from layoutner.errors import CheckpointError, LayoutnerError
from layoutner.files.artefact import Artefact


class ScoresFile(Artefact):
    """The file scores.json: what is read back of it. It holds all that `Scores.to_dict` gives."""

    model_config = ConfigDict(frozen=True, extra="allow")
    refused_as: ClassVar[type[LayoutnerError]] = CheckpointError

    f1: float
    precision: float
    recall: float
    f1_interval: float | None = None
    by_entity: dict[str, dict[str, Any]] = Field(default_factory=dict)
    loss: float
    scheme: str
    split: str | None = None
    box_level: str
    counts: dict[str, int]
    checkpoint: dict[str, Any]
