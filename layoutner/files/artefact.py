"""What a later run of layoutner reads back: JSON files whose format has a version."""

import hashlib
import json
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from layoutner.errors import LayoutnerError, first_line
from layoutner.files.atomic import write_text


class FileEntry(BaseModel):
    """What a manifest says of a file."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """The entry of a file as it is. Reads all of it.

        Raises:
            OSError: it cannot be read.
        """
        return cls(bytes=path.stat().st_size, sha256=sha256(path))


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Artefact(BaseModel):
    """A JSON file. A file without `format_version`, as the first layoutner wrote them, is of version 1.

    A change that an older layoutner would misread makes `NEWEST` one larger. What is added without that is ignored by
    older ones.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    NEWEST: ClassVar[int] = 1
    refused_as: ClassVar[type[LayoutnerError]] = LayoutnerError

    format_version: int = Field(default=1, ge=1)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read one.

        Raises:
            LayoutnerError: of the class `refused_as`: a newer layoutner has written it.
            OSError: it cannot be read.
            ValueError: it is damaged, or something else; the message is one line.
        """
        tree = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise ValueError(f"holds {type(tree).__name__}, not an object")
        found = tree.get("format_version", 1)
        if isinstance(found, int) and found > cls.NEWEST:
            raise cls.refused_as(
                f"{path} has format_version {found}, this layoutner reads up to {cls.NEWEST}: upgrade layoutner"
            )
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            wrong = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, wrong['loc']))}: {first_line(ValueError(wrong['msg']))}") from None

    def to_json(self) -> str:
        """The content of the file."""
        return json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n"

    def write(self, path: Path) -> None:
        """Write the file, as `write_text` does.

        Raises:
            OSError: it cannot be written.
        """
        write_text(path, self.to_json())
