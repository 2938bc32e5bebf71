"""The [ocr] section of Settings: how words are read from pictures of pages."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from layoutner.settings.section import Section

EngineName = Literal["tesseract", "rapidocr"]
DEFAULT_LANGUAGE = "eng"


class OcrSettings(Section):
    """[ocr]: optical character recognition, for pages without a usable text layer."""

    engine: EngineName = Field(
        "tesseract",
        description="tesseract = the program, for which there are more than 100 languages; rapidocr = the package, "
        "which needs no program, with the languages of its own model",
    )
    language: str = Field(
        DEFAULT_LANGUAGE, description="languages of the pages, by tesseract's names and joined by +, such as deu+eng"
    )
    cache: Literal["off"] | Path | None = Field(
        None,
        description="folder for what OCR has read, so that no page is read twice; off = none; "
        "default: layoutner/ocr in $XDG_CACHE_HOME or ~/.cache",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not re.fullmatch(r"\w[\w/-]*(\+\w[\w/-]*)*", self.language, re.ASCII):
            raise ValueError(f"language = {self.language!r}: give tesseract's names joined by +, such as deu+eng")
        if self.engine == "rapidocr" and self.language != DEFAULT_LANGUAGE:
            raise ValueError(
                f"language = {self.language} and engine = rapidocr: its model has its own languages (Chinese, English, "
                "Japanese and those with Latin letters); leave language out, or use engine = tesseract"
            )
        return self
