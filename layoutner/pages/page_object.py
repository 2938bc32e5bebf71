"""A page as an object of the jsonl format (`layoutner/readers/jsonl.py`)."""

import json
import re
from pathlib import Path
from typing import Any

from layoutner.files.image import PageImage
from layoutner.pages.document import Document


def page_object(document: Document, folder: Path) -> dict[str, Any]:
    """The page with its labels, if it has any.

    Args:
        folder: of the file to write; the image is named only if it is inside.
    """
    segments, tags = document.segments, document.tags
    words: list[dict[str, Any]] = [
        {"text": text, "box": list(box)} for text, box in zip(document.words, document.boxes, strict=True)
    ]
    for index, word in enumerate(words):
        if segments is not None:
            word["segment"] = segments[index]
        if tags is not None:
            word["label"] = tags[index]
    return {
        "document": document.name,
        "page_size": list(document.page_size),
        **image_keys(document.image, folder),
        **({} if document.group is None else {"group": document.group}),
        "words": words,
    }


def json_line(page: dict[str, Any]) -> str:
    """The object as one line. Escapes Unicode line separators, which some tools take for line ends."""
    line = json.dumps(page, ensure_ascii=False)
    return re.sub("[\x85\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", line) + "\n"


def image_keys(image: PageImage | None, folder: Path | None) -> dict[str, str | int]:
    """{"image": relative path}, with "frame" for a file of several frames; {} if the image is not inside the folder."""
    if image is None or folder is None:
        return {}
    frame = {} if image.frame is None else {"frame": image.frame}
    # Try the path as given, which may contain a symbolic link in the folder; then the resolved path.
    for path, root in ((image.path.absolute(), folder.absolute()), (image.path.resolve(), folder.resolve())):
        if path.is_relative_to(root) and ".." not in path.parts:
            return {"image": path.relative_to(root).as_posix(), **frame}
    return {}
