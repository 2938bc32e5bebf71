"""One page of a PDF or an image becomes a Page: by its text layer where it can be used, by OCR elsewhere."""

from dataclasses import dataclass
from typing import Literal

from layoutner.errors import DataError
from layoutner.files.image import PageImage, read_image
from layoutner.files.pdf import SCALE, Pdf, is_pdf, open_pdf
from layoutner.files.text_layer import TextLayer
from layoutner.pages.page import Page, Problem, Word
from layoutner.scans import open_engine
from layoutner.scans.cache import OcrCache, Words
from layoutner.scans.engine import OcrEngine
from layoutner.settings.data import DataSettings

# A page with fewer words than this, and images over most of it, is a scan with a stamp or a page number.
FEW_WORDS = 10
MOST_OF_A_PAGE = 0.5
# A layer is of no use if the meaning of so many of its characters is not known. Bullets and ticks have none either.
UNMAPPED = 0.25


@dataclass(frozen=True)
class Scan:
    """A page that was read."""

    page: Page
    origin: Literal["text layer", "OCR", "cache"]  # cache = OCR that was done before
    confidence: float | None  # mean over the words, from 0 to 1; None for a text layer, and without words


class ScanReader:
    """Reads pages of PDFs and images. The OCR engine is opened when it is first needed."""

    def __init__(self, settings: DataSettings) -> None:
        """
        Args:
            settings: format = "ocr" reads every page by OCR, and every other one uses text layers; ocr, max_image_mib.
        """
        self._settings = settings
        self._engine: OcrEngine | None = None
        self._cache: OcrCache | None = None

    def read(self, image: PageImage, document: str, number: int, pages: int) -> Scan | Problem:
        """Read a page. Its words are unlabelled; words of a line share a segment.

        Boxes and size are in points for a PDF, and in pixels for an image.

        Args:
            document: name of the file's document.
            number: of the page in it, from 1.
            pages: number of pages of the file; if there are several, they share a group.

        Raises:
            SettingsError: something that the OCR engine needs is not installed.
        """
        name = f"{document}-{number}" if pages > 1 else document
        source = f"{image.path.name} page {number}" if pages > 1 else image.path.name
        group = document if pages > 1 else None
        try:
            if not is_pdf(image.path):
                (words, size), origin, confidence = self._recognise(image)
                return Scan(Page(source, name, words, size, image, group=group), origin, confidence)
            with open_pdf(image.path) as pdf:
                index = image.frame or 0
                page_size = pdf.size(index)
                layer = None if self._settings.format == "ocr" else pdf.text_layer(index)
                if layer is not None and (is_usable(layer, pdf, index) or pdf.is_blank(index)):
                    words = [Word(word.text, word.box, None, word.segment) for word in layer.words]
                    return Scan(Page(source, name, words, page_size, image, group=group), "text layer", None)
            (words, _), origin, confidence = self._recognise(image)
            words = [word._replace(box=_scaled(word.box, page_size)) for word in words]
            return Scan(Page(source, name, words, page_size, image, group=group), origin, confidence)
        except DataError as error:
            return Problem(source, "unreadable", str(error))

    def _recognise(
        self, image: PageImage
    ) -> tuple[tuple[list[Word], tuple[int, int]], Literal["OCR", "cache"], float | None]:
        """((words with boxes in pixels, size in pixels), origin, confidence) of a page by OCR."""
        if self._engine is None or self._cache is None:
            self._engine = open_engine(self._settings.ocr)
            self._cache = OcrCache(self._settings.ocr, self._engine.version)
        found: Words | None = self._cache.get(image)
        origin: Literal["OCR", "cache"] = "OCR" if found is None else "cache"
        if found is None:
            picture = read_image(image, self._settings.max_image_mib)
            found = picture.size, self._engine.read(picture)
            self._cache.put(image, found)
        size, seen = found
        words = [Word(word.text, word.box, None, word.segment) for word in seen]
        return (words, size), origin, sum(word.confidence for word in seen) / len(seen) if seen else None


def is_usable(layer: TextLayer, pdf: Pdf, index: int) -> bool:
    """Whether the text layer of a page says what people read on it."""
    if not layer.words or layer.unmapped > UNMAPPED * layer.characters:
        return False
    return len(layer.words) >= FEW_WORDS or pdf.image_share(index) < MOST_OF_A_PAGE


def _scaled(box: tuple[float, float, float, float], size: tuple[float, float]) -> tuple[float, float, float, float]:
    """A box on the picture of a PDF page, in points. The picture is up to one pixel larger than the page."""
    x0, y0, x1, y1 = (side / SCALE for side in box)
    return min(x0, size[0]), min(y0, size[1]), min(x1, size[0]), min(y1, size[1])
