"""PDF files: their pages, the words of a text layer, pictures of pages. The only module that uses pdfium.

Sizes and boxes are in points (1/72 inch) of the upright page: cut to its crop box, rotated as it says, and with the
origin at the top left. Form fields and annotations are part of the page, as people see it.

pdfium is not thread-safe. One lock is held during each call, and everything is closed under it.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from layoutner.errors import DataError, first_line
from layoutner.files.text_layer import NO_ROOM, Character, TextLayer, Upright, layer, meaning

SUFFIX = ".pdf"
MAGIC, MAGIC_WITHIN = b"%PDF-", 1024  # readers look for the magic bytes within the first kilobyte
LARGEST_PDF = 2**30  # bytes
MOST_PAGES = 10_000
MOST_CHARACTERS = 500_000  # of a page; a full page of small print has about 10,000
MOST_OBJECTS = 20_000  # of a page that are searched for images
DPI = 200  # of pictures of pages; OCR engines expect 200 to 300
SCALE = DPI / 72
PICTURE_BYTES = 8  # peak memory per pixel while rendering, copies included


def is_pdf(path: Path) -> bool:
    """Whether a file is a PDF, by its name or by its beginning."""
    if path.suffix.lower() == SUFFIX:
        return True
    try:
        with path.open("rb") as file:
            return MAGIC in file.read(MAGIC_WITHIN)
    except OSError:
        return False


@contextmanager
def open_pdf(path: Path) -> Iterator["Pdf"]:
    """Open a PDF and read its table of pages.

    Raises:
        DataError: the file is missing, too large, damaged or encrypted, or has too many pages; or anything that pdfium
            reports inside the block. The message names the file.
    """
    pdf = _open(path)
    try:
        yield pdf
    except _pdfium().PdfiumError as error:
        raise DataError(f"PDF {path}: {first_line(error)}") from None
    finally:
        pdf.close()


class Pdf:
    """An open PDF. Pages are numbered from 0. Methods raise DataError for a page that cannot be used."""

    def __init__(self, path: Path, document: Any) -> None:
        self._path, self._document = path, document
        with _lock:
            self.pages = len(document)

    def size(self, index: int) -> tuple[float, float]:
        """Width and height of a page, in points."""
        with self._page(index) as page:
            return self._size(page, index)

    def pixels(self, index: int) -> tuple[int, int]:
        """Width and height of the picture of a page."""
        return picture_size(self.size(index))

    def text_layer(self, index: int) -> TextLayer:
        """The words of a page that the file has as text."""
        with self._page(index) as page:
            size, turns = self._size(page, index), page.get_rotation() // 90
            left, bottom, right, top = page.get_bbox()
            text = page.get_textpage()
            try:
                count = text.count_chars()
                if count > MOST_CHARACTERS:
                    raise DataError(
                        f"PDF {self._path}: page {index + 1} has {count:,} characters, more than {MOST_CHARACTERS:,}"
                    )
                characters = list(_read_characters(text, count))
            finally:
                text.close()
        place = Upright((left, bottom, right, top), turns)
        return layer([character.moved(place) for character in characters], size)

    def image_share(self, index: int) -> float:
        """The share of a page that images cover, at most 1. Images that overlap are counted twice."""
        image, form = _raw().FPDF_PAGEOBJ_IMAGE, _raw().FPDF_PAGEOBJ_FORM
        with self._page(index) as page:
            left, bottom, right, top = page.get_bbox()
            area = 0.0
            for part in islice(page.get_objects(filter=(image, form), max_depth=1), MOST_OBJECTS):
                if part.type == form and not _holds_image(page, part):
                    continue
                x0, y0, x1, y1 = part.get_bounds()
                area += max(0, min(x1, right) - max(x0, left)) * max(0, min(y1, top) - max(y0, bottom))
            return float(min(1.0, area / max((right - left) * (top - bottom), NO_ROOM)))

    def is_blank(self, index: int) -> bool:
        """Whether nothing is drawn on a page."""
        with self._page(index) as page:
            return next(iter(page.get_objects(max_depth=1)), None) is None

    def picture(self, index: int, max_mib: int) -> Image.Image:
        """A page in RGB, at `DPI`.

        Args:
            max_mib: memory limit for rendering, in MiB.
        """
        with self._page(index) as page:
            size = self._size(page, index)
            width, height = picture_size(size)
            if (mib := width * height * PICTURE_BYTES / 2**20) > max_mib:
                raise DataError(
                    f"PDF {self._path}: page {index + 1} of {size[0]:g} x {size[1]:g} points has {width} x {height} "
                    f"pixels at {DPI} dpi, which take {mib:,.0f} MiB of memory, more than data.max_image_mib = "
                    f"{max_mib}"
                )
            bitmap = page.render(scale=SCALE, rev_byteorder=True)
            try:
                picture: Image.Image = bitmap.to_pil().convert("RGB").copy()
                return picture
            finally:
                bitmap.close()

    def close(self) -> None:
        """Close it."""
        with _lock:
            self._document.close()

    @contextmanager
    def _page(self, index: int) -> Iterator[Any]:
        """A page with its form fields and annotations drawn into it, so that their text is text of the page."""
        with _lock:
            page = self._load(index)
            try:
                if self._document.formenv and _raw().FPDFPage_GetAnnotCount(page) > 0:
                    _raw().FPDFPage_Flatten(page, _raw().FLAT_NORMALDISPLAY)
                    page.close()
                    page = self._load(index)
                yield page
            finally:
                page.close()

    def _load(self, index: int) -> Any:
        try:
            return self._document.get_page(index)
        except _pdfium().PdfiumError:
            raise DataError(f"PDF {self._path}: page {index + 1} of {self.pages} is damaged") from None

    def _size(self, page: Any, index: int) -> tuple[float, float]:
        width, height = page.get_size()
        if not (math.isfinite(width * height) and width > NO_ROOM and height > NO_ROOM):
            raise DataError(f"PDF {self._path}: page {index + 1} has a size of {width:g} x {height:g} points")
        return width, height


def picture_size(size: tuple[float, float]) -> tuple[int, int]:
    """Pixels of the picture of a page.

    Args:
        size: width and height in points.
    """
    return math.ceil(size[0] * SCALE), math.ceil(size[1] * SCALE)


_lock = threading.RLock()


def _pdfium() -> Any:
    import pypdfium2

    return pypdfium2


def _raw() -> Any:
    import pypdfium2.raw

    return pypdfium2.raw


def _open(path: Path) -> Pdf:
    pdfium, raw = _pdfium(), _raw()
    try:
        if not path.is_file():
            raise DataError(f"PDF {path}: {'not a file' if path.exists() else 'no such file'}")
        if (size := path.stat().st_size) > LARGEST_PDF:
            raise DataError(f"PDF {path}: its {size:,} bytes are more than {LARGEST_PDF:,}; divide it")
        with path.open("rb"):  # pdfium does not say why it cannot open a file
            pass
    except OSError as error:
        raise DataError(f"PDF {path}: cannot be read: {error.strerror}") from None
    with _lock:
        try:
            document = pdfium.PdfDocument(path)
            document.init_forms()
        except pdfium.PdfiumError as error:
            if error.err_code in (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY):
                why = "is encrypted; save it without a password, for instance with `qpdf --decrypt --password=PASSWORD`"
            else:
                why = "is damaged, or not a PDF; `qpdf --check` says more, and printing it to a new PDF may repair it"
            raise DataError(f"PDF {path}: {why}") from None
    pdf = Pdf(path, document)
    if pdf.pages > MOST_PAGES:
        pdf.close()
        raise DataError(f"PDF {path}: has {pdf.pages:,} pages, more than {MOST_PAGES:,}; divide it")
    return pdf


def _holds_image(page: Any, form: Any) -> bool:
    objects = page.get_objects(filter=(_raw().FPDF_PAGEOBJ_IMAGE,), max_depth=3, form=form, level=1)
    return next(iter(islice(objects, MOST_OBJECTS)), None) is not None


def _read_characters(text: Any, count: int) -> Iterator[Character]:
    """The characters of a page, in its own coordinates: left, bottom, right, top."""
    raw, index = _raw(), 0
    while index < count:
        at, code = index, raw.FPDFText_GetUnicode(text, index)
        index += 1
        if 0xD800 <= code < 0xDC00 and index < count:
            low = raw.FPDFText_GetUnicode(text, index)
            if 0xDC00 <= low < 0xE000:
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
                index += 1
        shown, unmapped = meaning(code, raw.FPDFText_IsHyphen(text, at) == 1)
        if not shown.strip():
            yield Character(shown, (0, 0, 0, 0), (0, 0, 0, 0), 0, False)
            continue
        unmapped = unmapped or raw.FPDFText_HasUnicodeMapError(text, at) == 1
        turns = -round(raw.FPDFText_GetCharAngle(text, at) / (math.pi / 2))  # pdfium's angle is clockwise
        ink, room = text.get_charbox(at), text.get_charbox(at, loose=True)
        seen = ink[2] - ink[0] > NO_ROOM and ink[3] - ink[1] > NO_ROOM
        yield Character(shown, ink if seen else room, room, turns % 4, unmapped)
