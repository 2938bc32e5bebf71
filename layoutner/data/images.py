"""Page images: from the file to the pixels that a network sees."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from layoutner.data.files import open_image

KEPT_PAGES = 2048  # of 150 KB each at 224 x 224 pixels: 300 MB a rank


class PageImages:
    """Page images as a checkpoint's own image processor makes them: its size, its mean, its standard deviation.

    A page is read and resized when the first batch needs it. The small picture is kept, since every epoch, and every
    window of a long page, needs it again.
    """

    def __init__(self, processor: Any, kept: int = KEPT_PAGES) -> None:
        """Take an image processor of transformers, built for PIL and without OCR.

        Args:
            processor: resizes, and where it says so rescales and normalises.
            kept: pages, at most.
        """
        self.processor = processor
        self._resized = lru_cache(maxsize=kept)(self._resize)

    def pixels(self, images: Sequence[Path]) -> torch.Tensor:
        """Pixel values, B x 3 x height x width, fp32; for no image at all those of one black page.

        Raises:
            UserError: an image that cannot be read, by name.
        """
        size = self.processor.size
        found = [self._resized(image) for image in images] or [torch.zeros(3, size.height, size.width)]
        pixels_B3HW = torch.stack(found).float()
        if getattr(self.processor, "do_rescale", False):
            pixels_B3HW = pixels_B3HW * self.processor.rescale_factor
        if getattr(self.processor, "do_normalize", False):
            mean, std = (torch.tensor(getattr(self.processor, f"image_{name}")) for name in ("mean", "std"))
            pixels_B3HW = (pixels_B3HW - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        return pixels_B3HW

    def _resize(self, path: Path) -> torch.Tensor:
        """3 x height x width, uint8."""
        small = self.processor(read_image(path), do_rescale=False, do_normalize=False, return_tensors="pt")
        pixels_3HW: torch.Tensor = small["pixel_values"][0]
        return pixels_3HW


def read_image(path: Path) -> Image.Image:
    """A whole image, in RGB.

    Raises:
        UserError: missing, no image, damaged, or so large that unpacking it would take the memory.
    """
    with open_image(path) as image:
        return image.convert("RGB")
