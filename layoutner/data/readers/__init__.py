"""One file a format. A reader turns a path and a role into documents, or raises every problem it found."""

from collections.abc import Callable
from pathlib import Path

from layoutner.data.document import Document
from layoutner.data.readers import funsd, unilm

ROLES = ("train", "eval", "test")

READERS: dict[str, Callable[[Path, str], list[Document]]] = {"funsd": funsd.read, "unilm": unilm.read}
