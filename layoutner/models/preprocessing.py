"""How documents become a network's input: what a trained model needs beside weights and tokenizer."""

from typing import Any, ClassVar, Literal

from pydantic import PositiveFloat

from layoutner.errors import LayoutnerError, ModelError
from layoutner.files.artefact import Artefact, FileEntry

PREPROCESSING_FILE = "layoutner.json"  # in every run folder, and in every export


class Preprocessing(Artefact):
    """The file layoutner.json."""

    refused_as: ClassVar[type[LayoutnerError]] = ModelError

    family: str
    scheme: str
    labels: tuple[str, ...]  # tags, by class id
    max_length: int  # sub-words per window, special tokens included
    stride: int
    box_level: Literal["word", "segment"]
    images: Literal["use", "ignore"]
    ignore_types: tuple[str, ...] = ()  # entity types that were read as O
    chosen_on_test: bool = False  # whether the checkpoint was: every score of it says so
    temperature: PositiveFloat = 1.0  # of its probabilities; only an export has another than 1
    origin: dict[str, Any] | None = None  # for the model card, see `Plan.preprocessing`
    onnx: dict[str, FileEntry] | None = None  # files of an ONNX export's network, by name

    def to_match(self) -> dict[str, Any]:
        """What two runs must share, or one cannot go on from the other."""
        return self.model_dump(mode="json", exclude={"format_version", "origin", "temperature"}, exclude_defaults=True)
