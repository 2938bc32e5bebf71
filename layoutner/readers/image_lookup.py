"""Where the image of a page is, for the formats that find it by the name of the page's file."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from layoutner.files.image import SUFFIXES
from layoutner.pages.page import Problem


class ImageLookup:
    """Finds images by name in the folders where a format has them, whatever their suffix and its case."""

    def __init__(self, path: Path) -> None:
        """Look at nothing yet.

        Args:
            path: what is read; notes are on image folders inside it.
        """
        self._path = path
        self._images: dict[Path, dict[str, Path]] = {}  # folder -> name without suffix -> image
        self._used: set[Path] = set()
        self._missing: str | None = None  # the first page without an image

    def find(self, stem: str, folders: Sequence[Path]) -> Path | None:
        """The image of a page, in the first of the folders that has one of its name.

        Of several in one folder, that whose suffix comes first in `SUFFIXES`.

        Args:
            stem: the image's name without its suffix.
        """
        for folder in folders:
            if folder not in self._images:
                self._images[folder] = _images(folder)
            if (image := self._images[folder].get(stem)) is not None:
                self._used.add(folder)
                return image
        self._missing = self._missing or stem
        return None

    def notes(self) -> Iterator[Problem]:
        """A note, not fatal, on every folder of images of which nothing was used while pages lack an image."""
        if self._missing is None:
            return
        for folder, images in self._images.items():
            if images and folder not in self._used and folder.is_relative_to(self._path):
                some = min(images.values())
                what = (
                    f"none of its {len(images)} images is used, such as {some.name}: none has the name of a page "
                    f"that lacks one, such as {self._missing}{some.suffix}"
                )
                yield Problem(str(folder), "images not used", what, fatal=False)


def image_folders(file: Path, names: Sequence[str]) -> list[Path]:
    """Folders where the image of a page's file may be: beside the file's folder, beside the file, and below that.

    Args:
        file: such as train/annotations/a.json.
        names: of image folders as the data set is published with, the usual one first.
    """
    return [file.parent.parent / name for name in names] + [file.parent] + [file.parent / name for name in names]


def missing_image(file: Path, names: Sequence[str]) -> str:
    """What to say of a page's file that has no image."""
    folders = ", ".join(f"{name}/" for name in names)
    return f"page image {file.stem}{SUFFIXES[0]} (or {', '.join(SUFFIXES[1:4])} ...): No such file in {folders}"


def _images(folder: Path) -> dict[str, Path]:
    try:
        with os.scandir(folder) as entries:
            files = [Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_file()]
    except OSError:
        return {}
    files = [file for file in files if file.suffix.lower() in SUFFIXES]
    # Backwards, so that the first of one name stays.
    files.sort(key=lambda file: (SUFFIXES.index(file.suffix.lower()), file.name), reverse=True)
    return {file.stem: file for file in files}
