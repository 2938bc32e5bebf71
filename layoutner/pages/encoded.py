"""Documents and page images as bytes, as a store holds them."""

import json
from pathlib import Path

from layoutner.files.image import PageImage
from layoutner.pages.document import Document


def document_to_bytes(document: Document) -> bytes:
    """A document as JSON."""
    tree = {**vars(document), "image": _image_parts(document.image)}
    return json.dumps(tree, separators=(",", ":")).encode()


def document_from_bytes(content: bytes) -> Document:
    """The document of `document_to_bytes`.

    Raises:
        ValueError, KeyError, TypeError: it is damaged.
    """
    tree = json.loads(content)
    tree["boxes"] = tuple(map(tuple, tree["boxes"]))
    for key in ("words", "tags", "page_size", "segments", "breaks"):
        tree[key] = None if tree[key] is None else tuple(tree[key])
    return Document(**{**tree, "image": _image(tree["image"])})


def image_to_bytes(image: PageImage | None) -> bytes:
    """Path and frame of a page image; nothing if there is none."""
    return b"" if image is None else json.dumps(_image_parts(image)).encode()


def image_from_bytes(content: bytes) -> PageImage | None:
    """The image of `image_to_bytes`."""
    return _image(json.loads(content)) if content else None


def _image_parts(image: PageImage | None) -> tuple[str, int | None] | None:
    return None if image is None else (str(image.path.absolute()), image.frame)


def _image(parts: tuple[str, int | None] | None) -> PageImage | None:
    return None if parts is None else PageImage(Path(parts[0]), parts[1])
