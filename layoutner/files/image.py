"""Page image files, PDFs among them: the pages in a file, their sizes and pixels.

Sizes and pixels are those of the upright page, after applying the EXIF orientation. A page of a PDF is a frame like
that of a TIFF; its picture is rendered at a fixed resolution.
"""

import base64
import io
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image, ImageFile

from layoutner.errors import DataError
from layoutner.files.pdf import Pdf, is_pdf, open_pdf
from layoutner.files.rgb import bytes_to_unpack, to_rgb

# The allowed formats of Pillow. It has more, such as EPS, for which it starts an external program.
IMAGE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
# Pillow's suffixes of these formats. Of several files that differ only in the suffix, the first in this list is used.
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jfif", ".jpe", ".apng"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
)
NO_PAGE = 0b101  # bits of TIFF's NewSubfileType: reduced-resolution copy (thumbnail), or transparency mask
UPRIGHT = {  # EXIF orientation -> transformation from the stored pixels to the upright page
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PageImage(NamedTuple):
    """File and frame of a page image."""

    path: Path
    frame: int | None = None  # frame of a TIFF or page of a PDF that has several, from 0; None: the file has one


def find_page(path: Path, frame: int | None = None) -> tuple[PageImage, tuple[int, int]]:
    """The image of a page, and its width and height in pixels. Reads the file's headers only.

    Args:
        frame: frame of a TIFF or page of a PDF, from 0; None: the only frame that is a page.

    Raises:
        DataError: the file is missing, not an image or has damaged headers; it has several pages and no frame is
            given; or it does not have this frame.
    """
    if _is_pdf(path):
        with open_pdf(path) as pdf:
            return _find_pdf_page(path, pdf, frame)
    with _open(path) as image:
        if not _has_frames(image):
            if frame:
                raise DataError(f'"frame" is {frame}, and the file holds one page, frame 0')
            return PageImage(path), _size(image)
        if frame is None:
            pages = _pages(image)
            if len(pages) > 1:
                raise DataError(_which_of(pages))
            frame = pages[0]
        try:
            image.seek(frame)
        except EOFError:
            raise DataError(f'"frame" is {frame}, and the file has the frames 0 to {len(_frames(image)) - 1}') from None
        return PageImage(path, frame), _size(image)


def page_images(path: Path) -> list[PageImage]:
    """The images of all pages of a file.

    Each page of a PDF is one, and each frame of a TIFF, unless it is marked as a thumbnail or a mask. Other files have
    one page, the first frame, even if they contain a preview or an animation.

    Raises:
        DataError: the file is missing, not an image or has damaged headers.
    """
    if _is_pdf(path):
        with open_pdf(path) as pdf:
            return [PageImage(path, index) for index in range(pdf.pages)] if pdf.pages > 1 else [PageImage(path)]
    with _open(path) as image:
        return [PageImage(path, frame) for frame in _pages(image)] if _has_frames(image) else [PageImage(path)]


def read_image(page: PageImage, max_mib: int) -> Image.Image:
    """Decode a page image: upright, in RGB (see `to_rgb`).

    Args:
        max_mib: memory limit for decoding or rendering, in MiB.

    Raises:
        DataError: the file is missing, not an image or damaged, or decoding would exceed the limit.
    """
    if _is_pdf(page.path):
        with open_pdf(page.path) as pdf:
            return pdf.picture(page.frame or 0, max_mib)
    with _open(page.path) as image:
        if page.frame is not None:
            image.seek(page.frame)
        if (mib := bytes_to_unpack(image) / 2**20) > max_mib:
            raise DataError(
                f"{image.width} x {image.height} pixels of mode {image.mode} take {mib:,.0f} MiB of memory once "
                f"unpacked, more than data.max_image_mib = {max_mib}"
            )
        orientation = _orientation(image)
        image.load()
        if image.format == "TIFF":  # Pillow rotates TIFF on load, and then removes the orientation
            orientation = _orientation(image)
        picture = to_rgb(image)
        return picture.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else picture


def _is_pdf(path: Path) -> bool:
    return path.suffix.lower() not in SUFFIXES and is_pdf(path)


def _find_pdf_page(path: Path, pdf: Pdf, frame: int | None) -> tuple[PageImage, tuple[int, int]]:
    if frame is None and pdf.pages > 1:
        raise DataError(f"PDF {path}: {_which_of(range(pdf.pages))}")
    if frame is not None and frame >= pdf.pages:
        raise DataError(f'PDF {path}: "frame" is {frame}, and the file has the pages 0 to {pdf.pages - 1}')
    return PageImage(path, frame if pdf.pages > 1 else None), pdf.pixels(frame or 0)


def _which_of(pages: Sequence[int]) -> str:
    return (
        f"holds {len(pages)} pages, and the page to use is not given: set it in jsonl with the key "
        f'"frame", here one of {", ".join(map(str, pages[:10]))}{", ..." if len(pages) > 10 else ""}'
    )


def to_data_url(picture: Image.Image, side: int, quality: int) -> str:
    """A picture as a WebP in a data URL, which every browser shows. It is scaled down in place.

    Args:
        side: largest width and height, in pixels.
        quality: of WebP, to 100.
    """
    picture.thumbnail((side, side))
    out = io.BytesIO()
    picture.save(out, format="WEBP", quality=quality)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


@contextmanager
def _open(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image and read only its header.

    Raises:
        DataError: the file is missing or not an image, or anything raised inside the block; the message names the file.
    """
    try:
        with _any_size(), Image.open(path, formats=IMAGE_FORMATS) as image:
            yield image
    except Exception as error:  # decoders raise many kinds of exceptions on damaged files
        raise DataError(f"page image {path}: {error or type(error).__name__}") from None


_lock = threading.Lock()
_opened = 0  # number of images open now, in all threads
_pixels: int | None = None  # Pillow's original limit, while images are open


@contextmanager
def _any_size() -> Iterator[None]:
    """Disable Pillow's limit on pixels, which ignores their size in memory and applies even before decoding.

    The limit is global to the process. It is disabled when the first image is opened and restored when the last one is
    closed, so that the calling program keeps its limit.
    """
    global _opened, _pixels
    with _lock:
        if not _opened:
            _pixels, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _opened += 1
    try:
        yield
    finally:
        with _lock:
            _opened -= 1
            if not _opened:
                Image.MAX_IMAGE_PIXELS = _pixels


def _has_frames(image: ImageFile.ImageFile) -> bool:
    return image.format == "TIFF" and bool(getattr(image, "is_animated", False))


def _pages(image: ImageFile.ImageFile) -> list[int]:
    """Frames of a TIFF that are pages; all frames if all are marked as thumbnails or masks."""
    frames = _frames(image)
    return [frame for frame, is_page in frames.items() if is_page] or list(frames)


def _frames(image: ImageFile.ImageFile) -> dict[int, bool]:
    """Frame -> whether it is a page, for all frames of a TIFF."""
    frames: dict[int, bool] = {}
    while True:
        frame = len(frames)
        try:
            image.seek(frame)
        except EOFError:
            break
        except Exception:  # this frame and all after it are lost; reading it later reports the error
            frames[frame] = True
            break
        frames[frame] = not image.tag_v2.get(ExifTags.Base.NewSubfileType, 0) & NO_PAGE  # type: ignore[attr-defined]
    return frames


def _size(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Width and height of the upright page, for an image that is not loaded."""
    width, height = image.size
    if image.format == "TIFF":  # Pillow's size may be turned already
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]
    return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _orientation(image: ImageFile.ImageFile) -> int:
    """EXIF orientation, 1 to 8; 1 if it is missing or unreadable. Does not decode pixels."""
    try:
        if image.format == "PNG" and "exif" not in image.info:
            late = _late_exif(Path(os.fsdecode(image.filename)))
            if late is not None:
                image.info["exif"] = late
        # Not image.getexif(): for a PNG it would decode the image.
        found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return found if isinstance(found, int) and found in UPRIGHT else 1


def _late_exif(path: Path) -> bytes | None:
    """EXIF data of a PNG that comes after the pixels. Pillow would have to decode the pixels first to find it."""
    with path.open("rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8 and header[4:] != b"IEND":
            length = int.from_bytes(header[:4], "big")
            if header[4:] == b"eXIf":
                return b"Exif\0\0" + file.read(length)
            file.seek(length + 4, 1)
    return None
