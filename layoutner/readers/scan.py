"""PDFs and images of pages without labels: `pdf` uses text layers where they can be used, `ocr` reads every page."""

from collections.abc import Iterator
from pathlib import Path

from layoutner.errors import DataError
from layoutner.files.image import page_images
from layoutner.pages.page import Page, Problem, hidden_notes
from layoutner.progress import counted
from layoutner.scans.inputs import document_names, find_files
from layoutner.scans.reader import Scan, ScanReader
from layoutner.settings.data import DataSettings

DEFAULTS = DataSettings(format="pdf")


def read(path: Path, role: str, settings: DataSettings = DEFAULTS) -> Iterator[Page | Problem]:
    """Read the words of PDFs and images; see `ScanReader`.

    A multi-page TIFF and a PDF give several pages, which share a group.

    Args:
        path: a file, or a folder, which is searched with all folders in it.
        role: ignored.
        settings: format, ocr and max_image_mib.

    Raises:
        SettingsError: something that the OCR engine needs is not installed.
        DataError: the folder contains no PDF and no image.
    """
    hidden: list[Path] = []
    files = find_files([path], hidden)
    yield from hidden_notes(hidden)
    reader = ScanReader(settings)
    named = zip(files, document_names(files), strict=True)
    for file, document in counted(named, "reading words of files", len(files), "files"):
        try:
            images = page_images(file)
        except DataError as error:
            yield Problem(file.name, "unreadable", str(error))
            continue
        for number, image in enumerate(images, 1):
            found = reader.read(image, document, number, len(images))
            yield found.page if isinstance(found, Scan) else found
