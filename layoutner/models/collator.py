"""From windows to the inputs of a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from layoutner.corpus.batches import Batch, collate
from layoutner.corpus.pixels import PageImages
from layoutner.corpus.windows import Window
from layoutner.models.families import FAMILIES, model_inputs


@dataclass(frozen=True)
class Collator:
    """Makes batches of a network's inputs. It is called in threads."""

    family: str
    pad_token_id: int
    pages: PageImages | None  # reads the page images; None if the network does not use them
    pinned: bool  # whether tensors are in page-locked memory, from which a GPU copies them without making the CPU wait
    padded: bool = False  # pad windows even if the family packs them

    @property
    def packs(self) -> bool:
        """Whether windows are packed into one row, or padded to the longest."""
        return FAMILIES[self.family].packs and not self.padded

    def collate(self, windows: Sequence[Window]) -> tuple[Batch, dict[str, Any]]:
        """A batch, and the keyword arguments of the network's forward, on the CPU.

        Raises:
            DataError: a page image cannot be read.
        """
        batch = collate(windows, self.pad_token_id, self.packs)
        return batch, self.pin(model_inputs(self.family, batch, self.pages))

    def pin(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values in page-locked memory, if that is asked for; those that are no tensors unchanged."""
        if not self.pinned:
            return values
        return {name: one.pin_memory() if hasattr(one, "pin_memory") else one for name, one in values.items()}
