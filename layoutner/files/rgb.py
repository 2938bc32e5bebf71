"""Pictures of any kind as RGB: as the network sees pages, as tesseract reads them and as drawings show them."""

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

MODES_16 = ("I;16", "I;16B", "I;16L", "I;16N")
GREY_16 = 65535  # white
# Bytes of memory a pixel takes at most while it becomes RGB, its own and those of the copies; any other mode: 8.
PEAK_BYTES = {"1": 5, "L": 5, "P": 5, "RGB": 4, "I": 40, "F": 40, **dict.fromkeys(MODES_16, 10)}
PEAK_BYTES_CLEAR = 16  # ... where some of it may be transparent


def bytes_to_unpack(image: Image.Image) -> int:
    """Memory that it takes to unpack an image and to make it RGB."""
    peak = PEAK_BYTES_CLEAR if _may_be_clear(image) else PEAK_BYTES.get(image.mode, 8)
    return image.width * image.height * peak


def to_rgb(image: Image.Image) -> Image.Image:
    """An image as RGB. What is transparent is laid on white, as paper is. An RGB image is returned as it is.

    Grey of more than 8 bits is scaled, white to 255:

    - 16 bits (I;16 in any byte order): 65535 is white; in a TIFF, the largest number of its bits, and 0 where the
      file counts from white.
    - whole numbers of 32 bits (I) and floating point (F): by the smallest of the ranges 0..255, 0..65535, and for
      floating point 0..1, that holds them all; else the least is black and the greatest white. Not a number is white,
      and so is infinity; minus infinity is black. A PNG or PPM whose grey Pillow unpacks to 32 bits has 16.
    """
    if image.mode in MODES_16 or image.mode in ("I", "F"):
        return _grey(image).convert("RGB")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if not _may_be_clear(image):
        return image.convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    clear = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:
        # Of a PNG of 16 bits Pillow keeps the high byte of each colour, and this one whole.
        image.info["transparency"] = tuple(colour >> 8 for colour in clear)
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _may_be_clear(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _grey(image: Image.Image) -> Image.Image:
    """A grey image of 16 or 32 bits as one of 8."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    from_white = tags.get(ExifTags.Base.PhotometricInterpretation) == 0
    numbers = np.asarray(image)
    if image.mode in MODES_16 or (image.mode == "I" and image.format in ("PNG", "PPM")):
        bits = min(tags.get(ExifTags.Base.BitsPerSample, (16,))[0], 16)
        white = 2**bits - 1
        shades = (np.minimum(np.arange(GREY_16 + 1), white) * 255 + white // 2) // white
        grey = shades.astype(np.uint8)[numbers]
        if isinstance(clear := image.info.get("transparency"), int):
            grey[numbers == clear] = 255
    elif image.mode == "I":
        grey = _scaled(numbers, (255, GREY_16))
    else:
        grey = _scaled(numbers, (1, 255, GREY_16))
        grey[np.isnan(numbers)] = 0 if from_white else 255
    return Image.fromarray(255 - grey if from_white else grey)


def _scaled(numbers: npt.NDArray[np.generic], whites: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Numbers as 8 bits of grey, by the first white that none exceeds, else from the least to the greatest."""
    values = numbers.astype(np.float64)  # in which the whole range of single precision has a width
    finite = values[np.isfinite(values)]
    least, greatest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    black, white = 0.0, next((float(white) for white in whites if least >= 0 and greatest <= white), None)
    if white is None:
        black, white = least, greatest if greatest > least else least + 1
    np.nan_to_num(values, copy=False, nan=white, posinf=white, neginf=black)
    values -= black
    values *= 255 / (white - black)
    return (values + 0.5).astype(np.uint8)
