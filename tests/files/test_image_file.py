"""Image files: which pages they hold, how large they are as seen, and their pixels."""

import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageOps

from layoutner.errors import DataError
from layoutner.files import image as image_file
from layoutner.files.image import IMAGE_FORMATS, SUFFIXES, PageImage, find_page, page_images, read_image
from layoutner.files.rgb import to_rgb

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
ORIENTATION = ExifTags.Base.Orientation


def pixels(page: PageImage, max_mib: int = 64) -> np.ndarray:
    return np.asarray(read_image(page, max_mib))


def saved(path: Path, image: Image.Image, **options: object) -> PageImage:
    image.save(path, **options)
    return find_page(path)[0]


def png(path: Path, size: tuple[int, int], depth: int, kind: int, row: bytes, **chunks: bytes) -> Path:
    """A PNG of equal rows; a chunk whose name begins with "late_" stands behind the pixels."""

    def chunk(name: str, content: bytes) -> bytes:
        body = name.encode() + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    early = [chunk(name, content) for name, content in chunks.items() if not name.startswith("late_")]
    late = [chunk(name[5:], content) for name, content in chunks.items() if name.startswith("late_")]
    parts = [
        b"\x89PNG\r\n\x1a\n",
        chunk("IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0)),
        *early,
        chunk("IDAT", zlib.compress((b"\0" + row) * size[1])),
        *late,
        chunk("IEND", b""),
    ]
    path.write_bytes(b"".join(parts))
    return path


# Pixels


@pytest.mark.parametrize("order", ["<u2", ">u2"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_of_16_bits_is_that_of_8(order: str, suffix: str, tmp_path: Path) -> None:
    wide = Image.frombytes("I;16B" if order[0] == ">" else "I;16", (16, 16), (GREY * np.uint16(257)).astype(order))
    found = pixels(saved(tmp_path / f"wide{suffix}", wide))
    assert (found == GREY[..., None]).all()
    high = Image.fromarray(GREY * np.uint16(256))  # as those scanners write it that fill the low byte with nothing
    assert abs(pixels(saved(tmp_path / f"high{suffix}", high)).astype(int) - GREY[..., None]).max() <= 1


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N"])
def test_every_byte_order_is_read(mode: str) -> None:
    order = ">u2" if mode == "I;16B" else "<u2" if mode != "I;16N" else "=u2"
    image = Image.frombytes(mode, (16, 16), (GREY * np.uint16(257)).astype(order).tobytes())
    assert (np.asarray(to_rgb(image)) == GREY[..., None]).all()


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_tiff_that_counts_from_white_is_turned_round(compression: str, tmp_path: Path) -> None:
    image = Image.fromarray(GREY * np.uint16(257))
    page = saved(tmp_path / "p.tif", image, tiffinfo={262: 0}, compression=compression)
    assert (pixels(page) == 255 - GREY[..., None]).all()


def test_a_tiff_of_12_bits_is_white_at_4095(tmp_path: Path) -> None:
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8 + 2 + 12 * 9 + 4), (277, 1), (278, 1), (279, 3)]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    content = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + bytes([0xFF, 0xF8, 0x00])
    (tmp_path / "p.tif").write_bytes(content)  # 4095 and 2048
    assert pixels(PageImage(tmp_path / "p.tif"))[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize(
    ("numbers", "greys"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([-1000, 0, 1000], [0, 128, 255]),
        ([0, 2**30, 2**31 - 1], [0, 128, 255]),
        ([7, 7, 7], [7, 7, 7]),
    ],
)
def test_whole_numbers_of_32_bits_are_scaled_by_what_holds_them(
    numbers: list[int], greys: list[int], tmp_path: Path
) -> None:
    image = Image.fromarray(np.array([numbers], dtype=np.int32))
    assert pixels(saved(tmp_path / "p.tif", image))[0, :, 0].tolist() == greys


@pytest.mark.parametrize(
    ("numbers", "greys"),
    [
        ([0, 0.5, 1], [0, 128, 255]),
        ([0, 100, 255], [0, 100, 255]),
        ([0, 32768, 65535], [0, 128, 255]),
        ([-3e38, 0, 3e38], [0, 128, 255]),
        ([float("nan"), float("inf"), float("-inf"), 0.5], [255, 255, 0, 128]),
        ([float("nan")] * 3, [255] * 3),
        ([-5, -5, -5], [0, 0, 0]),
    ],
)
def test_floating_point_is_scaled_by_what_holds_it(numbers: list[float], greys: list[int], tmp_path: Path) -> None:
    image = Image.fromarray(np.array([numbers], dtype=np.float32))
    assert pixels(saved(tmp_path / "p.tif", image))[0, :, 0].tolist() == greys


def test_what_is_transparent_is_paper(tmp_path: Path) -> None:
    ink = Image.new("RGBA", (2, 1), (0, 0, 0, 0))  # black, and not to be seen
    ink.putpixel((1, 0), (10, 20, 30, 255))
    palette = ink.convert("RGB").quantize(2)
    clear = palette.getpixel((0, 0))
    grey = Image.new("L", (2, 1), 7)
    grey.putpixel((1, 0), 20)
    pages = {
        "rgba.png": (ink, {}, (10, 20, 30)),
        "la.png": (ink.convert("LA"), {}, (18, 18, 18)),
        "p.png": (palette, {"transparency": clear}, (10, 20, 30)),
        "p.gif": (palette, {"transparency": clear}, (10, 20, 30)),
        "bytes.png": (palette, {"transparency": bytes([0, 255] if clear == 0 else [255, 0])}, (10, 20, 30)),
        "l.png": (grey, {"transparency": 7}, (20, 20, 20)),
        "rgb.png": (ink.convert("RGB"), {"transparency": (0, 0, 0)}, (10, 20, 30)),
        "p.webp": (ink, {"lossless": True, "exact": True}, (10, 20, 30)),
    }
    for name, (image, options, colour) in pages.items():
        found = pixels(saved(tmp_path / name, image, **options))
        assert found.tolist() == [[[255, 255, 255], list(colour)]], name
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    assert np.asarray(to_rgb(half)).tolist() == [[[127, 127, 127]]]


def test_transparency_in_16_bits_is_paper_too(tmp_path: Path) -> None:
    grey = png(tmp_path / "grey.png", (2, 1), 16, 0, struct.pack(">2H", 0x1234, 0x8000), tRNS=b"\x12\x34")
    assert pixels(PageImage(grey))[0, :, 0].tolist() == [255, 128]
    row = struct.pack(">6H", 0x1234, 0x1234, 0x1234, 0x8000, 0, 0)
    colour = png(tmp_path / "colour.png", (2, 1), 16, 2, row, tRNS=b"\x12\x34" * 3)
    assert pixels(PageImage(colour)).tolist() == [[[255, 255, 255], [128, 0, 0]]]


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "PA", "LA", "La", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
)
def test_every_mode_shows_black_on_white(mode: str) -> None:
    picture = Image.new("RGB", (4, 1), "white")
    picture.putpixel((1, 0), (0, 0, 0))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(picture, *profiles, outputMode="LAB")
        assert image is not None
    elif mode in ("La", "RGBa"):
        image = picture.convert("LA" if mode == "La" else "RGBA").convert(mode)
    else:
        image = picture.convert("P").convert(mode) if mode == "PA" else picture.convert(mode)
    found = np.asarray(to_rgb(image))
    assert to_rgb(image).mode == "RGB"
    assert abs(found.astype(int) - np.asarray(picture)).max() <= 2


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [".jpg", ".png", ".webp", ".tif", "lzw.tif"])
def test_size_and_pixels_are_those_that_are_seen(kind: str, orientation: int, tmp_path: Path) -> None:
    stored = Image.fromarray(np.kron(GREY[:2, :3] * 40, np.ones((16, 16), dtype=np.uint8))).convert("RGB")
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options: dict[str, object] = {"exif": exif}
    if kind.endswith(".tif"):
        options = {"tiffinfo": {int(ORIENTATION): orientation}, "compression": "tiff_lzw" if kind[0] == "l" else "raw"}
    page = saved(tmp_path / f"p{kind}", stored, **options)
    with Image.open(tmp_path / f"p{kind}") as image:
        seen = ImageOps.exif_transpose(image).convert("RGB")
    assert seen.size == ((32, 48) if orientation > 4 else (48, 32))
    assert find_page(page.path)[1] == seen.size
    assert (pixels(page) == np.asarray(seen)).all()


def test_an_orientation_behind_the_pixels_of_a_png_is_seen_without_unpacking_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = png(tmp_path / "p.png", (2, 1), 8, 0, bytes([10, 200]), late_eXIf=exif.tobytes()[6:])
    assert find_page(path)[1] == (1, 2)
    assert pixels(PageImage(path))[:, 0, 0].tolist() == [10, 200]
    vast = png(tmp_path / "vast.png", (2**20, 1), 1, 0, b"", late_eXIf=exif.tobytes()[6:])  # no pixels to unpack
    assert find_page(vast)[1] == (1, 2**20)


def test_an_orientation_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    Image.new("L", (3, 2)).save(tmp_path / "p.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert find_page(tmp_path / "p.png")[1] == (3, 2)
    assert pixels(PageImage(tmp_path / "p.png")).shape == (2, 3, 3)


# Files of several pages


@pytest.fixture
def tiff(tmp_path: Path) -> Path:
    """Three pages, each of its own size and grey."""
    first, *others = (Image.new("L", (10 + number, 20), 100 + number) for number in range(3))
    first.save(tmp_path / "three.tif", save_all=True, append_images=others)
    return tmp_path / "three.tif"


def test_a_page_of_several_is_the_one_that_is_named(tiff: Path) -> None:
    assert page_images(tiff) == [PageImage(tiff, frame) for frame in range(3)]
    for frame in range(3):
        page, size = find_page(tiff, frame)
        assert (page, size) == (PageImage(tiff, frame), (10 + frame, 20))
        assert (pixels(page) == 100 + frame).all()
    with pytest.raises(DataError, match=r'three.tif: holds 3 pages, and the page .*"frame", here one of 0, 1, 2$'):
        find_page(tiff)
    with pytest.raises(DataError, match=r'three.tif: "frame" is 3, and the file has the frames 0 to 2$'):
        find_page(tiff, 3)


def test_previews_thumbnails_masks_and_moving_pictures_are_no_pages(tmp_path: Path) -> None:
    large, small = Image.new("L", (20, 20), 9), Image.new("L", (5, 5), 200)
    for name in ("photo.mpo", "moving.gif", "moving.webp", "moving.png"):
        path = tmp_path / name
        large.convert("RGB").save(path, save_all=True, append_images=[small.convert("RGB").resize((20, 20))])
        if name == "photo.mpo":
            path = path.rename(tmp_path / "photo.jpg")
        with Image.open(path) as image:
            assert image.n_frames == 2
        assert page_images(path) == [PageImage(path)]
        assert find_page(path, 0) == (PageImage(path), (20, 20))
        with pytest.raises(DataError, match='"frame" is 1, and the file holds one page, frame 0'):
            find_page(path, 1)
    small.encoderinfo = {"tiffinfo": {254: 1}}  # type: ignore[attr-defined]
    for name, frames in (("last.tif", (large, small)), ("first.tif", (small, large))):
        tags = [{254: 1} if frame is small else {} for frame in frames]
        for frame, tag in zip(frames, tags, strict=True):
            frame.encoderinfo = {"tiffinfo": tag}  # type: ignore[attr-defined]
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], tiffinfo=tags[0])
        page, size = find_page(tmp_path / name)
        assert size == (20, 20), name
        assert page == PageImage(tmp_path / name, frames.index(large))
        assert (pixels(page) == 9).all()


# Size


@pytest.mark.slow
def test_the_limit_is_on_memory_and_nothing_is_refused_for_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a0.tif"
    Image.new("1", (9933, 14043), 1).save(path, compression="group4")  # A0 at 300 dpi
    page, size = find_page(path)
    assert size == (9933, 14043)
    with pytest.raises(DataError, match="a0.tif: 9933 x 14043 pixels of mode 1 take 665 MiB .* data.max_image_mib = 6"):
        read_image(page, 664)
    assert read_image(page, 1024).getextrema() == ((255, 255),) * 3
    # Of other modes as much as they take.
    for mode, mib in (("RGB", 4), ("L", 5), ("CMYK", 8)):
        page = saved(tmp_path / f"{mode}.tif", Image.new(mode, (1024, 1024)))
        assert read_image(page, mib).size == (1024, 1024)
        with pytest.raises(DataError, match=f"of mode {mode} take {mib} MiB"):
            read_image(page, mib - 1)


def test_pillow_keeps_its_own_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "p.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with image_file._open(tmp_path / "p.png") as image:
        other = threading.Thread(target=find_page, args=(tmp_path / "p.png",))
        other.start()
        other.join()
        image.load()  # while this one is open, the other's end does not bring the limit back
        assert Image.MAX_IMAGE_PIXELS is None
    assert Image.MAX_IMAGE_PIXELS == 1000
    with pytest.raises(DataError, match="no such file|No such file"):
        find_page(tmp_path / "gone.png")
    assert Image.MAX_IMAGE_PIXELS == 1000
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "p.png")


def test_the_suffixes_are_those_of_the_formats() -> None:
    Image.init()
    known = {suffix for suffix, format in Image.registered_extensions().items() if format in IMAGE_FORMATS}
    assert set(SUFFIXES) == known
