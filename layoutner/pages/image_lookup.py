"""Find page images by the name of the page's file, for the formats that store them this way."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from layoutner.files.image import SUFFIXES
from layoutner.pages.page import Problem


class ImageLookup:
    """Finds images by name in the image folders of a format, with any suffix in any letter case."""

    def __init__(self, path: Path) -> None:
        """Create a lookup; folders are read when needed.

        Args:
            path: the path being read; `notes` only reports image folders inside it.
        """
        self._path = path
        self._images: dict[Path, dict[str, Path]] = {}  # folder -> name without suffix -> image
        self._used: set[Path] = set()
        self._missing: str | None = None  # the first page without an image

    def find(self, stem: str, folders: Sequence[Path]) -> Path | None:
        """The image of a page, from the first folder that has one with its name.

        Of several images in one folder, the one whose suffix comes first in `SUFFIXES` is returned.

        Args:
            stem: name of the image without its suffix.
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
        """If pages lack an image: a non-fatal note for each image folder from which no image was used."""
        if self._missing is None:
            return
        for folder, images in self._images.items():
            if images and folder not in self._used and folder.is_relative_to(self._path):
                some = min(images.values())
                what = (
                    f"none of its {len(images)} images is used, such as {some.name}: none of them has the name "
                    f"of a page without an image, such as {self._missing}{some.suffix}"
                )
                yield Problem(str(folder), "images not used", what, fatal=False)


def image_folders(file: Path, names: Sequence[str]) -> list[Path]:
    """Folders that may contain the image of a page: next to the file's folder, the file's folder, and inside it.

    Args:
        file: the page's file, such as train/annotations/a.json.
        names: names of image folders in published versions of the dataset, the most common first.
    """
    return [file.parent.parent / name for name in names] + [file.parent] + [file.parent / name for name in names]


def missing_image(file: Path, names: Sequence[str]) -> str:
    """Error message for a page without an image."""
    folders = ", ".join(f"{name}/" for name in names)
    return f"page image {file.stem}{SUFFIXES[0]} (or {', '.join(SUFFIXES[1:4])} ...): No such file in {folders}"


def _images(folder: Path) -> dict[str, Path]:
    try:
        with os.scandir(folder) as entries:
            files = [Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_file()]
    except OSError:
        return {}
    files = [file for file in files if file.suffix.lower() in SUFFIXES]
    # Sort in reverse, so that in the dict below the first image of each name wins.
    files.sort(key=lambda file: (SUFFIXES.index(file.suffix.lower()), file.name), reverse=True)
    return {file.stem: file for file in files}
