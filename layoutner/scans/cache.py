"""What OCR engines have read, kept in a folder by content: the same page is not read twice, wherever its file lies.

The name of an entry is a digest of all that decides the words: the bytes of the file, the page in it, the engine and
its version, the language, and how PDFs are rendered. The folder may be removed at any time.
"""

import hashlib
import json
import logging
import os
from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter

from layoutner.errors import DataError, first_line
from layoutner.files.artefact import sha256
from layoutner.files.atomic import atomic_file
from layoutner.files.image import PageImage
from layoutner.files.pdf import DPI
from layoutner.files.text import read_text
from layoutner.scans.engine import SeenWord
from layoutner.settings.ocr import OcrSettings

FORMAT = 1  # of an entry; another one is read anew
Words = tuple[tuple[int, int], list[SeenWord]]  # size of the picture in pixels, and its words
_WORDS: TypeAdapter[Words] = TypeAdapter(Words)

logger = logging.getLogger(__name__)


def cache_folder(settings: OcrSettings) -> Path | None:
    """The folder of the settings, else that of the user; None if there is to be none."""
    if settings.cache == "off":
        return None
    if settings.cache is not None:
        return settings.cache.expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()) / "layoutner" / "ocr"


class OcrCache:
    """The entries of one engine."""

    def __init__(self, settings: OcrSettings, version: str) -> None:
        """
        Args:
            version: of the engine.
        """
        self._folder = cache_folder(settings)
        self._engine = [FORMAT, settings.engine, version, settings.language, DPI]
        self._failed = False

    def get(self, image: PageImage) -> Words | None:
        """What was read of a page; None if that is not known, or if the entry is damaged."""
        path = self._path(image)
        if path is None or not path.exists():
            return None
        try:
            return _WORDS.validate_json(read_text(path))
        except (DataError, ValueError):
            logger.warning("%s: a damaged entry of the OCR cache; its page is read again", path)
            return None

    def put(self, image: PageImage, words: Words) -> None:
        """Keep what was read of a page. If it cannot be written, a warning says so once."""
        path = self._path(image)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path, shared=True) as file:
                file.write(json.dumps(words, ensure_ascii=False, separators=(",", ":")).encode("utf-8"))
        except OSError as error:
            if not self._failed:
                logger.warning(
                    "the OCR cache cannot be written: %s; --ocr.cache names another folder, or off", first_line(error)
                )
            self._failed = True

    def _path(self, image: PageImage) -> Path | None:
        if self._folder is None:
            return None
        try:
            status = image.path.stat()
            content = _digest(image.path, status.st_mtime_ns, status.st_size)
        except OSError:
            return None  # reading the page reports the error
        key = hashlib.sha256(json.dumps([content, image.frame, *self._engine]).encode()).hexdigest()
        return self._folder / key[:2] / f"{key}.json"


@lru_cache(maxsize=64)
def _digest(path: Path, _modified_ns: int, _size: int) -> str:
    """SHA-256 of a file, which is not computed for every page of it."""
    return sha256(path)
