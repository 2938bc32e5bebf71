"""Page images: from the file to the pixels that a network sees."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from layoutner.files.image import PageImage, read_image
from layoutner.settings.data import MAX_IMAGE_MIB

KEPT_PAGES = 2048  # of 150 KB each at 224 x 224 pixels: 300 MB a rank


class PageImages:
    """Page images as a checkpoint's own image processor makes them: its size, its mean, its standard deviation.

    A page is read and resized when the first batch needs it. The small picture is kept, since every epoch, and every
    window of a long page, needs it again.
    """

    def __init__(self, processor: Any, max_mib: int = MAX_IMAGE_MIB, kept: int = KEPT_PAGES) -> None:
        """Take an image processor of transformers, built for PIL and without OCR.

        Args:
            processor: resizes, and where it says so rescales and normalises.
            max_mib: memory that unpacking one image may take, in MiB; larger ones cannot be read.
            kept: pages, at most.
        """
        self.processor = processor
        self._max_mib = max_mib
        self._resized = lru_cache(maxsize=kept)(self._resize)

    def pixels(self, images: Sequence[PageImage]) -> torch.Tensor:
        """Pixel values, B x 3 x height x width, fp32; for no image at all those of one black page.

        Raises:
            DataError: an image that cannot be read, by name.
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

    def _resize(self, page: PageImage) -> torch.Tensor:
        """3 x height x width, uint8."""
        picture = read_image(page, self._max_mib)
        small = self.processor(picture, do_rescale=False, do_normalize=False, return_tensors="pt")
        pixels_3HW: torch.Tensor = small["pixel_values"][0]
        return pixels_3HW
