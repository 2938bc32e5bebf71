"""Exports of annotation tools, and pages for them."""

from typing import Any

from layoutner.pages.document import Box, Document

SIZE = (800, 1000)  # of the pages, in pixels


def document(name: str, *words: tuple[str, Box], **more: Any) -> Document:
    """A page; boxes are in thousandths."""
    texts, boxes = tuple(text for text, _ in words), tuple(box for _, box in words)
    return Document(name, texts, boxes, None, SIZE, **more)


def invoice(name: str, **more: Any) -> Document:
    """Two lines: Total 9.00 EUR, and Acme Ltd."""
    total = [("Total", (100, 100, 200, 120)), ("9.00", (300, 100, 400, 120)), ("EUR", (410, 100, 460, 120))]
    return document(name, *total, ("Acme", (100, 200, 180, 220)), ("Ltd", (190, 200, 240, 220)), **more)


def rectangle(label: str | None, x: float, y: float, width: float, height: float, **more: Any) -> dict[str, Any]:
    """A result of Label Studio, in percent. `rotation` is a value, other keywords are of the result."""
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": more.pop("rotation", 0)}
    kind = "rectangle" if label is None else "rectanglelabels"
    labels = {} if label is None else {"rectanglelabels": [label]}
    size = {"original_width": SIZE[0], "original_height": SIZE[1], "image_rotation": 0}
    return {"from_name": "label", "to_name": "image", "type": kind, "value": {**value, **labels}, **size, **more}


AMOUNT = rectangle("AMOUNT", 29, 9, 18, 4)  # 9.00 EUR
NAME = rectangle("NAME", 9, 19, 16, 4)  # Acme Ltd


def task(image: str, *results: Any, **more: Any) -> dict[str, Any]:
    """A task with one annotation."""
    return {
        "id": 1,
        "data": {"image": image},
        "annotations": [{"result": list(results), "was_cancelled": False}],
        **more,
    }


def ocr_template(label: str, text: str, x: float, y: float, width: float, height: float, name: str) -> list[Any]:
    """The three results that Label Studio's template for OCR gives a region."""
    place = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
    both = {"id": name, "to_name": "image", "original_width": SIZE[0], "original_height": SIZE[1]}
    return [
        {**both, "from_name": "bbox", "type": "rectangle", "value": place},
        {**both, "from_name": "label", "type": "labels", "value": {**place, "labels": [label]}},
        {**both, "from_name": "transcription", "type": "textarea", "value": {**place, "text": [text]}},
    ]
