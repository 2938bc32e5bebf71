"""What a model got wrong as tables of Weights & Biases: kinds of errors, confused types, and the worst pages."""

from collections import Counter
from functools import reduce
from pathlib import Path
from typing import Any

from PIL import Image

from layoutner.errors import DataError
from layoutner.files.image import PageImage, read_image
from layoutner.objectives.errors import KINDS, Errors, WrongPage
from layoutner.pages.document import union

IMAGE_SIDE = 1000  # pixels; larger page images are scaled down


def error_tables(errors: Errors, pages: int, max_image_mib: int) -> dict[str, Any]:
    """The tables, by their names.

    Args:
        pages: how many of the worst pages. They hold images, words and entities of documents.
        max_image_mib: see `read_image`.
    """
    import wandb

    kinds = wandb.Table(["type", *KINDS], [[name, *map(row.__getitem__, KINDS)] for name, row in errors.kinds.items()])
    confusion = wandb.Table(
        ["true type", "predicted type", "words"],
        [
            [truth, predicted, words]
            for truth, row in zip(errors.types, errors.confusion, strict=True)
            for predicted, words in zip(errors.types, row, strict=True)
        ],
    )
    tables = {"errors/kinds": kinds, "errors/confusion": confusion}
    if pages:
        rows = [[*_counts(page), _drawn(page, errors, max_image_mib)] for page in errors.pages[:pages]]
        tables["errors/pages"] = wandb.Table(["page", "errors", *KINDS, "image"], rows)
    return tables


def _counts(page: WrongPage) -> list[Any]:
    kinds = Counter(one.kind for one in page.entities)
    return [page.document, page.errors, *(kinds[kind] for kind in KINDS)]


def _drawn(page: WrongPage, errors: Errors, max_image_mib: int) -> Any:
    """The page image with two groups of boxes: the truth, and the prediction. A page without an image is white."""
    import wandb

    numbers = {name: number for number, name in enumerate(errors.types)}

    def box(entity: tuple[str, int, int], kind: str) -> dict[str, Any]:
        name, start, end = entity
        x0, y0, x1, y1 = (side / 1000 for side in reduce(union, page.boxes[start:end]))
        position = {"minX": x0, "minY": y0, "maxX": x1, "maxY": y1}
        return {"position": position, "class_id": numbers[name], "box_caption": f"{name}: {kind}"}

    labels = {number: name for name, number in numbers.items()}
    sides = {
        "truth": [box(one.truth, one.kind) for one in page.entities if one.truth is not None],
        "prediction": [box(one.predicted, one.kind) for one in page.entities if one.predicted is not None],
    }
    boxes = {side: {"box_data": found, "class_labels": labels} for side, found in sides.items() if found}
    return wandb.Image(_picture(page, max_image_mib), boxes=boxes, file_type="jpg")


def _picture(page: WrongPage, max_image_mib: int) -> Image.Image:
    try:
        if page.image is None:
            raise DataError("the page has no image")
        picture = read_image(PageImage(Path(page.image), page.frame), max_image_mib)
    except DataError:
        width, height = page.page_size
        scale = IMAGE_SIDE / max(width, height)
        return Image.new("RGB", (max(1, round(width * scale)), max(1, round(height * scale))), "white")
    picture.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    return picture
