"""Page images: from the file to the pixel values that a network takes."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from layoutner.files.image import PageImage, read_image
from layoutner.settings.data import MAX_IMAGE_MIB

KEPT_PAGES = 2048  # resized pages in memory; at 224 x 224 pixels 150 KB each, 300 MB per rank


class PageImages:
    """Preprocesses page images with the image processor of the pretrained model (its size, mean and deviation).

    A page is read and resized when a batch first needs it. The resized image is cached, because every epoch and every
    window of a long page needs it again.
    """

    def __init__(self, processor: Any, max_mib: int = MAX_IMAGE_MIB, kept: int = KEPT_PAGES) -> None:
        """Take an image processor of transformers, built for PIL and without OCR.

        Args:
            processor: resizes, and rescales and normalises if it is configured to.
            max_mib: memory limit for decoding one image, in MiB; larger images are an error.
            kept: maximum number of cached pages.
        """
        self.processor = processor
        self._max_mib = max_mib
        self._resized = lru_cache(maxsize=kept)(self._resize)

    def pixels(self, images: Sequence[PageImage]) -> torch.Tensor:
        """Pixel values, B x 3 x height x width, fp32. Without images: those of one black page.

        Raises:
            DataError: an image cannot be read; the message names it.
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
        """Read and resize a page: 3 x height x width, uint8."""
        picture = read_image(page, self._max_mib)
        small = self.processor(picture, do_rescale=False, do_normalize=False, return_tensors="pt")
        pixels_3HW: torch.Tensor = small["pixel_values"][0]
        return pixels_3HW
