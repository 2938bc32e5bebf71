"""What an OCR engine is. To add one: a module here, a line in ENGINES, and its name in `layoutner/settings/ocr.py`."""

from typing import NamedTuple, Protocol

from PIL import Image

Box = tuple[float, float, float, float]


class SeenWord(NamedTuple):
    """A word as an engine has read it."""

    text: str
    box: Box  # left, top, right, bottom, in pixels
    segment: int  # number of its line
    confidence: float  # from 0 to 1


class OcrEngine(Protocol):
    """Reads words from pictures. Its constructor checks that everything it needs is there."""

    name: str
    version: str  # of what decides its answers: another version may read other words

    def read(self, picture: Image.Image) -> list[SeenWord]:
        """The words of an upright page in RGB, in reading order; without white space in them.

        Raises:
            DataError: the engine has failed.
        """
