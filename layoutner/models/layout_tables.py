"""Initialise the layout embeddings of a LayoutLM that starts from a BERT."""

import math
from typing import Any

import torch

# Scale of newly initialised layout embeddings, relative to the word embeddings they are added to (standard deviations
# per element). Six of them are summed; at scale 1 they would dominate the text.
LAYOUT_SCALE = 0.1


@torch.no_grad()
def init_layout_tables(embeddings: Any, scale: float = LAYOUT_SCALE) -> None:
    """Initialise layout embeddings with sinusoids, so that neighbouring coordinates have similar embeddings.

    In a few hundred pages most coordinates occur a few times or never, so random embeddings could not all be learnt.
    Columns 2i and 2i+1 of a table are sine and cosine, with a wavelength that falls from 2000 to 20 thousandths of the
    page (as in Vaswani et al. 2017, section 3.5). Each table is multiplied by its own random rotation, so that the six
    summed embeddings of x0, y0, x1, y1, h and w remain distinguishable.

    Args:
        embeddings: LayoutLM's embeddings module.
        scale: standard deviation of a table's elements, relative to that of the word embeddings.
    """
    size = float(embeddings.word_embeddings.weight.std()) * scale
    for axis in "xyhw":
        table = getattr(embeddings, f"{axis}_position_embeddings").weight
        coordinate = torch.arange(table.shape[0], dtype=torch.float32)[:, None]
        wavelength = 2000 * (20 / 2000) ** torch.linspace(0, 1, -(-table.shape[1] // 2))[None]
        angle = 2 * math.pi * coordinate / wavelength
        waves = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, : table.shape[1]]
        rotation, _ = torch.linalg.qr(torch.randn(table.shape[1], table.shape[1]))
        mixed = (waves - waves.mean(0)) @ rotation  # zero mean, so that the mean embedding does not shift
        table.copy_(mixed * (size / mixed.std()))
