"""Reading one upload: its pages as documents, and their images for a browser."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layoutner.documents.roles import stream
from layoutner.errors import DataError, LayoutnerError
from layoutner.files.image import read_image, to_data_url
from layoutner.inference.input import guess_format
from layoutner.pages.document import Document
from layoutner.pages.page import ReadStats
from layoutner.serving.refusal import Refused, one_sentence
from layoutner.settings.data import DataSettings

PREVIEW_SIDE = 1400  # pixels; larger page images are scaled down for the upload page
PREVIEW_QUALITY = 60  # of WebP


@dataclass(frozen=True)
class ReaderSettings:
    """How documents are read."""

    data: DataSettings  # `format` is that of the upload instead
    max_pages: int


@dataclass(frozen=True)
class Upload:
    """A document to read: a file in a folder of its own."""

    path: Path  # its suffix is that of its kind
    previews: bool = False  # whether to make page images for a browser


@dataclass(frozen=True)
class Reading:
    """The pages of an upload."""

    documents: list[Document]
    previews: list[str | None]  # one data URL per page; None = the page has no image; empty if not asked for


def read(upload: Upload, settings: ReaderSettings) -> Reading:
    """Read the pages of an upload.

    Raises:
        Refused: 400 = not the JSON that it claims to be; 422 = a page cannot be used, or there are too many.
    """
    folder = str(upload.path.parent)
    try:
        path = _as_lines(upload.path) if upload.path.suffix == ".json" else upload.path
        documents = _documents(path, settings)
        mib = settings.data.max_image_mib
        previews = [_preview(document, mib) for document in documents] if upload.previews else []
    except LayoutnerError as error:
        raise Refused(422, one_sentence(str(error), folder)) from None
    except MemoryError:
        raise Refused(422, f"{upload.path.name}: takes more memory than there is") from None
    return Reading(documents, previews)


def _documents(path: Path, settings: ReaderSettings) -> list[Document]:
    data = settings.data.model_copy(update={"format": guess_format(path)})
    documents: list[Document] = []
    for found in stream(data, path, "test", ReadStats(), said="the upload", labels="ignore"):
        if not isinstance(found, Document):
            raise DataError(next(str(problem) for problem in found if problem.fatal))
        if len(documents) == settings.max_pages:
            raise DataError(f"{path.name}: has more than {settings.max_pages} pages, the most that this server takes")
        documents.append(found)
    if not documents:
        raise DataError(f"{path.name}: holds no page")
    return documents


def _as_lines(path: Path) -> Path:
    """Write the page or the pages of a JSON file as jsonl.

    Raises:
        Refused: it is not JSON, or neither an object nor a list.
        DataError: a page names an image: only the server's own files could be meant.
    """
    try:
        tree: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Refused(400, one_sentence(f"the body is not JSON: {error}")) from None
    pages = tree if isinstance(tree, list) else [tree]
    if not pages or not all(isinstance(page, dict) for page in pages):
        raise Refused(400, "the JSON is not a page: expected an object with document, page_size and words, or a list")
    for number, page in enumerate(pages, 1):
        if page.get("image") is not None:
            raise DataError(f"page {number} names an image; leave the key out, or upload the image itself")
    lines = path.with_suffix(".jsonl")
    lines.write_text("".join(f"{json.dumps(page)}\n" for page in pages), encoding="utf-8")
    return lines


def _preview(document: Document, max_image_mib: int) -> str | None:
    """The page image as a data URL that every browser shows; None without one."""
    if document.image is None:
        return None
    return to_data_url(read_image(document.image, max_image_mib), PREVIEW_SIDE, PREVIEW_QUALITY)
