"""The [data] section of Settings: which documents to read, and how."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator
from pydantic_settings import NoDecode

from layoutner.settings.ocr import OcrSettings
from layoutner.settings.section import Section, split_commas

OcrResultName = Literal["hocr", "alto", "page-xml", "textract", "azure", "google", "doctr"]
FormatName = Literal[
    "funsd", "unilm", "sroie", "cord", "xfund", "jsonl", "hub", "pdf", "ocr",
    "hocr", "alto", "page-xml", "textract", "azure", "google", "doctr",
]  # fmt: skip
BoxUnit = Literal["thousandths", "pixels", "fractions", "percent"]
BoxFormat = Literal["xyxy", "xywh"]

MAX_IMAGE_MIB = 1024  # a page of A0 at 300 dpi, black and white, takes 665


def _number_or_text(value: Any) -> Any:
    """`data.eval` is a fraction or a path: convert text that is a number to a fraction."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


class DataSettings(Section):
    """[data]: the documents."""

    format: FormatName = Field("funsd", description="reader of the files")
    train: Path | None = Field(None, description="folder or file of the training documents")
    eval: Annotated[float | Path | None, BeforeValidator(_number_or_text)] = Field(
        None,
        description="documents to choose the checkpoint by: a folder or file, or a fraction of the training documents",
    )
    test: Path | None = Field(None, description="folder or file scored once, at the end, with the chosen checkpoint")
    labels: Path | None = Field(None, description="file of labels, one per line; default: those of the documents")
    scheme: Literal["BIO", "BIOES"] = Field("BIO", description="tagging scheme of training and of scores")
    max_length: int = Field(512, ge=8, description="sub-words per window, including special tokens")
    stride: int = Field(128, ge=0, description="sub-words that neighbouring windows of a long document share")
    box_level: Literal["word", "segment"] = Field(
        "word", description="box of a word: its own, or that of its whole line or field; written into every score"
    )
    label_all_subwords: bool = Field(False, description="train on every sub-word of a word, not only on the first")
    box_unit: BoxUnit | None = Field(
        None, description="unit of the boxes, overriding the format and the page; default: as they say"
    )
    box_format: BoxFormat | None = Field(
        None, description="xywh = boxes are left, top, width, height; default: as the format and the page say"
    )
    group_by: str | None = Field(
        None,
        description="regular expression whose one group captures the document's name from a page's name, such as "
        "(.+)-p[0-9]+$ for invoice-7-p2; a split keeps pages of one document together",
    )
    ignore_types: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_commas)] = Field(
        (), description="entity types to read as O, such as OTHERS; case does not matter"
    )
    invalid_boxes: Literal["none", "clamp", "drop"] = Field(
        "none",
        description="boxes off the page or inverted: none = an error, clamp = cut to the page, drop = remove the word",
    )
    bad_pages: Literal["stop", "skip"] = Field(
        "stop", description="a page that cannot be read or used: an error, or reported and left out"
    )
    max_image_mib: int = Field(
        MAX_IMAGE_MIB,
        ge=1,
        description="limit in MiB on the memory of one decoded page image; larger images are not read",
    )
    selection_split: Literal["eval", "test"] = Field(
        "eval", description="split to choose the checkpoint by; test inflates the score, which then says so"
    )
    folds: int | None = Field(
        None, ge=2, description="cross-validation: parts of the training documents, one of which is used as data.eval"
    )
    fold: int | None = Field(None, ge=1, description="cross-validation: which part is held out, from 1 to data.folds")

    _ocr: OcrSettings = PrivateAttr(default_factory=OcrSettings)

    @property
    def ocr(self) -> OcrSettings:
        """The section [ocr], for the readers, which get these settings only."""
        return self._ocr

    def with_ocr(self, ocr: OcrSettings) -> Self:
        """The same with another section [ocr]."""
        copy = self.model_copy()
        copy._ocr = ocr
        return copy

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.group_by is not None:
            try:
                captures = re.compile(self.group_by).groups
            except re.error as error:
                raise ValueError(f"group_by = {self.group_by}: not a regular expression: {error}") from None
            if captures != 1:
                raise ValueError(
                    f"group_by = {self.group_by}: has {captures} groups, but needs exactly one: put the part "
                    "that names the document between ( and )"
                )
        if self.fold is not None and self.folds is None:
            raise ValueError(f"fold = {self.fold} without folds: give the number of folds too")
        if self.folds is not None:
            if self.eval is not None:
                raise ValueError(f"folds = {self.folds} and eval = {self.eval}: with folds, a fold is used as eval")
            if self.fold is not None and self.fold > self.folds:
                raise ValueError(f"fold = {self.fold} is not one of the {self.folds} folds")
        if self.selection_split == "test":
            if self.eval is not None or self.folds is not None:
                given = f"eval = {self.eval}" if self.folds is None else f"folds = {self.folds}"
                raise ValueError(f"selection_split = test and {given}: give one of the two")
            if self.test is None:
                raise ValueError("selection_split = test needs data.test: give it too")
        if isinstance(self.eval, float) and not 0 < self.eval < 1:
            raise ValueError(f"eval = {self.eval:g}: a fraction lies between 0 and 1, for instance 0.1")
        if self.stride > self.max_length // 2:
            raise ValueError(
                f"stride = {self.stride} is more than half of max_length = {self.max_length}: "
                f"windows would hardly advance; use at most {self.max_length // 2}"
            )
        return self
