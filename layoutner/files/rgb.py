"""Convert images of any mode to RGB, for the network, for tesseract and for drawings."""

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

MODES_16 = ("I;16", "I;16B", "I;16L", "I;16N")
GREY_16 = 65535  # white
# Peak memory per pixel while converting to RGB, copies included, in bytes; any other mode: 8.
PEAK_BYTES = {"1": 5, "L": 5, "P": 5, "RGB": 4, "I": 40, "F": 40, **dict.fromkeys(MODES_16, 10)}
PEAK_BYTES_CLEAR = 16  # the same for images with transparency


def bytes_to_unpack(image: Image.Image) -> int:
    """Peak memory for decoding an image and converting it to RGB, in bytes."""
    peak = PEAK_BYTES_CLEAR if _may_be_clear(image) else PEAK_BYTES.get(image.mode, 8)
    return image.width * image.height * peak


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB. Transparent pixels are blended with white. An RGB image is returned unchanged.

    Grey values of more than 8 bits are scaled so that white is 255:

    - 16 bits (I;16 in any byte order): white is 65535; in a TIFF, the maximum of its bit depth, or 0 if its photometric
      interpretation is WhiteIsZero.
    - 32-bit integers (I) and floating point (F): scaled by the smallest range that contains all values, of 0..255,
      0..65535 and, for floating point, 0..1. If none does, the minimum is black and the maximum white. NaN and infinity
      are white, minus infinity is black. PNG and PPM images that Pillow decodes to I are treated as 16 bits.
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
        # Of a 16-bit PNG, Pillow keeps the high byte of each colour, but all 16 bits of the transparent colour.
        image.info["transparency"] = tuple(colour >> 8 for colour in clear)
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _may_be_clear(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _grey(image: Image.Image) -> Image.Image:
    """Convert a grey image of 16 or 32 bits to 8 bits."""
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
    """Scale numbers to 0..255: from 0..white, with the first white that no value exceeds, else from min..max."""
    values = numbers.astype(np.float64)  # max - min of fp32 values cannot overflow in fp64
    finite = values[np.isfinite(values)]
    least, greatest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    black, white = 0.0, next((float(white) for white in whites if least >= 0 and greatest <= white), None)
    if white is None:
        black, white = least, greatest if greatest > least else least + 1
    np.nan_to_num(values, copy=False, nan=white, posinf=white, neginf=black)
    values -= black
    values *= 255 / (white - black)
    return (values + 0.5).astype(np.uint8)
