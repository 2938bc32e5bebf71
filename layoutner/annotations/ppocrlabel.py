"""PPOCRLabel: Label.txt has one line per image, its path and a JSON list of its regions; points are pixels."""

import json
from pathlib import Path
from typing import Any

from layoutner.annotations.region import MOST_POINTS, MOST_REGIONS, AnnotatedPage, Export, Region
from layoutner.errors import DataError
from layoutner.files.text import WRONG_SHAPE, read_text
from layoutner.pages.page import is_box

LARGEST_FILE = 512 * 2**20  # maximum bytes


def read_export(path: Path) -> Export:
    """Read Label.txt, or Cache.cach, which has the same lines. `key_cls` is the entity type, "None" means none.

    PaddleOCR's own training files for key information have the same lines, with `label` instead of `key_cls`.

    Args:
        path: the file, or the folder that holds Label.txt.

    Raises:
        DataError: not such a file, or no region has a type.
    """
    file = path / "Label.txt" if path.is_dir() else path
    export = Export()
    for number, line in enumerate(read_text(file, LARGEST_FILE).split("\n"), 1):
        if not line.strip():
            continue
        name, tab, content = line.partition("\t")
        try:
            if not tab:
                raise DataError("expected a path, a tab and a JSON list")
            regions = tuple(_region(one) for one in json.loads(content))
            if len(regions) > MOST_REGIONS:
                raise DataError(f"{len(regions)} regions, more than {MOST_REGIONS}")
        except DataError as error:
            raise DataError(f"{file}: line {number}: {error}") from None
        except WRONG_SHAPE as error:
            raise DataError(
                f"{file}: line {number}: not of PPOCRLabel: {type(error).__name__}: {str(error)[:200]}"
            ) from None
        export.pages.append(AnnotatedPage(f"line {number}", (name,), regions, in_pixels=True))
    if not any(region.type for page in export.pages for region in page.regions):
        raise DataError(f"{file}: no region has a key_cls: start PPOCRLabel with --kie True, which asks for it")
    return export


def _region(one: Any) -> Region:
    points = tuple((float(x), float(y)) for x, y in one["points"])
    if not 3 <= len(points) <= MOST_POINTS or not all(is_box((*point, *point)) for point in points):
        raise DataError(f"points {str(one['points'])[:80]} are not a region")
    kind, text = one.get("key_cls", one.get("label")), one.get("transcription") or ""
    if not (kind is None or (isinstance(kind, str) and (not kind.strip() or kind.isprintable()))):
        raise DataError(f"key_cls {str(kind)[:80]!r} is not the name of an entity type")
    if not isinstance(text, str):
        raise DataError(f"transcription {str(text)[:80]} is not text")
    return Region(None if kind is None or kind.strip() in ("", "None") else kind.strip(), points, text)
