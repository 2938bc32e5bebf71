"""Image files of pages: which pages a file holds, how large they are, and their pixels.

Size and pixels are those of the page as it is seen: turned as the file's EXIF orientation says.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image, ImageFile

from layoutner.errors import DataError
from layoutner.files.rgb import bytes_to_unpack, to_rgb

# Of the many that Pillow knows; among the others are EPS, for which it starts another program.
IMAGE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
# The names that Pillow knows them by; of two files that differ in nothing else, the first is taken.
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jfif", ".jpe", ".apng"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
)
NO_PAGE = 0b101  # bits of a TIFF's NewSubfileType: a smaller copy of another frame, or a mask of one
UPRIGHT = {  # EXIF orientation -> what makes of the pixels as they are stored those that are seen
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PageImage(NamedTuple):
    """Where the picture of a page is."""

    path: Path
    frame: int | None = None  # which one of a TIFF of several, from 0; None: the file holds no other


def find_page(path: Path, frame: int | None = None) -> tuple[PageImage, tuple[int, int]]:
    """The picture of a page, and its width and height in pixels, from the file's header.

    Args:
        frame: which one of a TIFF, from 0; None: the only one that is a page.

    Raises:
        DataError: missing, not an image, damaged as far as it is read; several pages and no frame, or no such frame.
    """
    with _open(path) as image:
        if not _has_frames(image):
            if frame:
                raise DataError(f'"frame" is {frame}, and the file holds one page, frame 0')
            return PageImage(path), _size(image)
        if frame is None:
            pages = _pages(image)
            if len(pages) > 1:
                raise DataError(
                    f"holds {len(pages)} pages, and nothing says which of them is meant: jsonl has a key for it, "
                    f'"frame", here one of {", ".join(map(str, pages[:10]))}{", ..." if len(pages) > 10 else ""}'
                )
            frame = pages[0]
        try:
            image.seek(frame)
        except EOFError:
            raise DataError(f'"frame" is {frame}, and the file has the frames 0 to {len(_frames(image)) - 1}') from None
        return PageImage(path, frame), _size(image)


def page_images(path: Path) -> list[PageImage]:
    """The pictures of all pages of a file.

    In a TIFF a second picture is a second page, unless it says that it is a thumbnail or a mask. A photo may hold a
    preview, and a GIF may move: such files have one page, the first picture.

    Raises:
        DataError: missing, not an image, damaged as far as it is read.
    """
    with _open(path) as image:
        return [PageImage(path, frame) for frame in _pages(image)] if _has_frames(image) else [PageImage(path)]


def read_image(page: PageImage, max_mib: int) -> Image.Image:
    """The whole picture of a page, as it is seen, in RGB; see `to_rgb`.

    Args:
        max_mib: memory that unpacking it may take, in MiB.

    Raises:
        DataError: missing, no image, damaged, or larger than that once unpacked.
    """
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
        if image.format == "TIFF":  # Pillow turns these when it loads them, and forgets the orientation then
            orientation = _orientation(image)
        picture = to_rgb(image)
        return picture.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else picture


@contextmanager
def _open(path: Path) -> Iterator[ImageFile.ImageFile]:
    """An image of which only the header is read yet.

    Raises:
        DataError: missing, not an image; whatever goes wrong inside, by the name of the file.
    """
    try:
        with _any_size(), Image.open(path, formats=IMAGE_FORMATS) as image:
            yield image
    except Exception as error:  # whatever a decoder trips over in damaged bytes, there is no image to be had
        raise DataError(f"page image {path}: {error or type(error).__name__}") from None


_lock = threading.Lock()
_opened = 0  # images open now, in all threads
_pixels: int | None = None  # Pillow's own limit, while there are any


@contextmanager
def _any_size() -> Iterator[None]:
    """Without Pillow's limit, a number of pixels whatever memory they take and whether or not they are unpacked.

    Pillow has one limit a process, so it is lifted for the first of the images that are open and is back after the
    last: neither another thread nor a program around this one is left without it.
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
    """Frames of a TIFF that are pages; all of them where none says that it is one."""
    frames = _frames(image)
    return [frame for frame, is_page in frames.items() if is_page] or list(frames)


def _frames(image: ImageFile.ImageFile) -> dict[int, bool]:
    """All frames of a TIFF, and whether they are pages."""
    frames: dict[int, bool] = {}
    while True:
        frame = len(frames)
        try:
            image.seek(frame)
        except EOFError:
            break
        except Exception:  # it and those behind it are lost, which is said when it is read
            frames[frame] = True
            break
        frames[frame] = not image.tag_v2.get(ExifTags.Base.NewSubfileType, 0) & NO_PAGE  # type: ignore[attr-defined]
    return frames


def _size(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Width and height as seen of an image that is not loaded."""
    width, height = image.size
    if image.format == "TIFF":  # Pillow's size may be turned already
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]
    return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _orientation(image: ImageFile.ImageFile) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or none that can be read. Decodes no pixel."""
    try:
        if image.format == "PNG" and "exif" not in image.info:
            late = _late_exif(Path(os.fsdecode(image.filename)))
            if late is not None:
                image.info["exif"] = late
        # That of a PNG's own class would unpack the image.
        found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return found if isinstance(found, int) and found in UPRIGHT else 1


def _late_exif(path: Path) -> bytes | None:
    """The EXIF data of a PNG that stands behind its pixels, where Pillow would have to unpack them first."""
    with path.open("rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8 and header[4:] != b"IEND":
            length = int.from_bytes(header[:4], "big")
            if header[4:] == b"eXIf":
                return b"Exif\0\0" + file.read(length)
            file.seek(length + 4, 1)
    return None
