"""Hugging Face datasets with one row per page, through the `datasets` library (`pip install 'layoutner[hub]'`).

Columns; of several names, the first that the dataset has is used:

    words | tokens           list of texts
    bboxes | bbox | boxes    list of [x0, y0, x1, y1] in thousandths of the page
    ner_tags | labels        list of tags, or of class ids with names in the dataset; if missing: unlabelled pages
    id                       the page's name; if missing: split and row number
    image                    a column of the type Image; if missing: a page of 1000 x 1000 pixels

Images that are embedded in the dataset's files are extracted to ~/.cache/layoutner/images (or $XDG_CACHE_HOME), each
once, named by the hash of its bytes.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from reprlib import repr as short
from typing import Any

from layoutner.errors import DataError, NoSplitError, SettingsError, first_line
from layoutner.files.atomic import atomic_file
from layoutner.files.image import find_page
from layoutner.files.text import inside
from layoutner.pages.page import Page, Problem, Word

SPLITS = {"train": ("train",), "eval": ("validation", "valid", "val", "eval", "dev"), "test": ("test",)}
COLUMNS = {"words": ("words", "tokens"), "boxes": ("bboxes", "bbox", "boxes"), "tags": ("ner_tags", "labels")}


def require_packages() -> None:
    """Check that `datasets` is installed, without importing it.

    Raises:
        SettingsError: `datasets` is not installed.
    """
    if find_spec("datasets") is None:
        raise SettingsError("data.format = hub needs the package datasets: pip install 'layoutner[hub]'")


def read(path: Path, role: str) -> Iterator[Page | Problem]:
    """Read one split of a dataset, row by row.

    Args:
        path: NAME, NAME:CONFIG or NAME@REVISION of a dataset on the hub, such as nielsr/funsd; or a folder of data
            files (FOLDER:CONFIG if it has several configurations), a folder written by save_to_disk, or a .parquet
            file. A dataset without splits is used as a whole for every role.
        role: "train", "eval" or "test".

    Raises:
        SettingsError: `datasets` is not installed.
        DataError: no such dataset, no such split, or a column is missing.
    """
    require_packages()
    import datasets

    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # errors that it logs are also raised below
    # The library raises exceptions of Arrow, of the network and its own.
    try:
        dataset, split = _one_split(_load(path, datasets), path, role)
        features = dataset.features or {}
        for name, feature in features.items():
            if isinstance(feature, datasets.Image):
                dataset = dataset.cast_column(name, datasets.Image(decode=False))
        rows = iter(dataset)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: cannot be read as a dataset: {first_line(error)}{_advice(error, path)}") from None
    row_reader = _RowReader(path, features, isinstance(features.get("image"), datasets.Image))
    number = 0
    while True:
        source = f"{path} {split} row {number}"
        try:
            row = next(rows, None)
        except Exception as error:
            raise DataError(f"{source}: cannot be read: {first_line(error)}") from None
        if row is None:
            return
        try:
            yield row_reader.page(row, source, f"{split}-{number}")
        except DataError as error:
            yield Problem(source, "unreadable", str(error))
        number += 1


def _load(path: Path, datasets: Any) -> Any:
    """Load a dataset, or datasets by split. Local ones are streamed, to avoid copies in the library's cache."""
    if path.is_file():
        if path.suffix != ".parquet":
            raise DataError(f"{path}: expected a .parquet file, a folder, or the name of a dataset of the hub")
        return datasets.load_dataset("parquet", data_files=str(path), streaming=True, split="train")
    folder, config = (path, None) if path.is_dir() else _parted(str(path), ":")
    if Path(folder).is_dir():
        if any(Path(folder, file).is_file() for file in ("dataset_dict.json", "state.json")):
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(str(folder), config, streaming=True)
    name, revision = _parted(str(path), "@")
    name, config = _parted(name, ":")
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or name.endswith(".parquet"):
        raise DataError(f"{path}: no such file or folder")
    return datasets.load_dataset(name, config, revision=revision)


def _parted(text: str, mark: str) -> tuple[str, str | None]:
    """Text before and after a separator; None instead of an empty second part."""
    before, _, behind = text.partition(mark)
    return before, behind or None


def _advice(error: Exception, path: Path) -> str:
    if isinstance(error, ConnectionError):
        return "; without a network, name a local folder or .parquet file"
    if "scripts are no longer supported" in str(error):
        return f"; use the copy that the hub has converted: {path}@refs/convert/parquet"
    if "onfig name is missing" in str(error):
        return f"; choose one with {path}:NAME"
    return ""


def _one_split(loaded: Any, path: Path, role: str) -> tuple[Any, str]:
    if not isinstance(loaded, dict):
        return loaded, str(loaded.split or "all")
    for name in SPLITS[role]:
        if name in loaded:
            return loaded[name], name
    raise NoSplitError(
        f"{path}: holds the splits {', '.join(map(str, loaded))}, none of them for data.{role} "
        f"({' or '.join(SPLITS[role])})"
        + ("; give a fraction of the training documents such as 0.1" if role == "eval" else "")
    )


class _RowReader:
    """Converts the rows of a dataset to pages."""

    def __init__(self, path: Path, features: Any, pictures: bool) -> None:
        there = [place for place in (path, Path(_parted(str(path), ":")[0])) if place.exists()]
        self.root = (there[0] if there[0].is_dir() else there[0].parent) if there else None  # None: on the hub
        self.pictures = pictures  # whether the column "image" has the type Image
        self.columns = [next((name for name in names if name in features), "") for names in COLUMNS.values()]
        for column, names in zip(self.columns[:2], COLUMNS.values(), strict=False):
            if not column:
                known = ", ".join(features) or "none"
                raise DataError(f"{path}: has no column {' or '.join(names)}; its columns: {known}")
        # Names of the class ids; None if tags are strings or missing.
        classes = getattr(features.get(self.columns[2]), "feature", None)
        self.names: list[str] | None = getattr(classes, "names", None)

    def page(self, row: dict[str, Any], source: str, name: str) -> Page:
        texts, boxes, tags = (row.get(column) for column in self.columns)
        if not (isinstance(texts, list) and isinstance(boxes, list) and isinstance(tags, list | None)):
            raise DataError(f"words {short(texts)}, boxes {short(boxes)}, tags {short(tags)}: expected lists")
        tags = tags or [None] * len(texts)
        if not len(texts) == len(boxes) == len(tags):
            raise DataError(f"{len(texts)} words, {len(boxes)} boxes, {len(tags)} tags: expected one of each per word")
        words = []
        for index, (text, box, tag) in enumerate(zip(texts, boxes, tags, strict=True)):
            if not (isinstance(box, list) and len(box) == 4):
                raise DataError(f"word {index}: box {short(box)}; expected four numbers")
            words.append(Word(text, (box[0], box[1], box[2], box[3]), _tag(tag, self.names, index)))
        file = _image(row["image"], self.root) if self.pictures and row["image"] else None
        image, size = (None, (1000, 1000)) if file is None else find_page(file)
        name = name if row.get("id") is None else str(row["id"])
        return Page(source, name, words, size, image, "thousandths")


def _tag(tag: Any, names: list[str] | None, index: int) -> str | None:
    if tag is None or isinstance(tag, str):
        return tag
    if not isinstance(tag, int):
        raise DataError(f"word {index}: tag {short(tag)}; expected a text or a class id")
    if names is None:
        what = "but the dataset has no class names; make the column a list of ClassLabel, or of texts"
        raise DataError(f"word {index}: tag {tag} is a number, {what}")
    if not 0 <= tag < len(names):
        raise DataError(f"word {index}: tag {tag} is not one of the dataset's {len(names)} classes")
    return names[tag]


def _image(image: dict[str, Any], root: Path | None) -> Path | None:
    """Path of a page image, which is stored as bytes or as a path. In a local dataset it must be inside `root`."""
    if image.get("bytes"):
        return _laid_out(image["bytes"])
    if not image.get("path"):
        return None
    return Path(image["path"]) if root is None else inside(root, image["path"])


def _laid_out(content: bytes) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    file = cache / "layoutner" / "images" / hashlib.sha256(content).hexdigest()
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(file, shared=True) as partial:  # ranks may write the same image at the same time
                partial.write(content)
        except OSError as error:
            raise DataError(f"{file}: cannot be written: {error}") from None
    return file
