"""Tesseract, through pytesseract (`pip install 'layoutner[ocr]'`), with its default options."""

import shutil
from importlib.util import find_spec

from PIL import Image

from layoutner.errors import DataError, SettingsError, first_line
from layoutner.scans.engine import SeenWord
from layoutner.settings.ocr import OcrSettings

LONGEST_PAGE = 300  # timeout of tesseract per page in seconds; a page takes a few seconds


class Tesseract:
    """The program tesseract. `OMP_THREAD_LIMIT` limits its threads."""

    name = "tesseract"

    def __init__(self, settings: OcrSettings) -> None:
        """
        Raises:
            SettingsError: pytesseract, tesseract or one of the languages is not installed.
        """
        self.require_packages()
        import pytesseract

        self._pytesseract, self._language = pytesseract, settings.language
        try:
            self.version = str(pytesseract.get_tesseract_version())
            known = pytesseract.get_languages()
        except Exception as error:  # whatever stands under the name of the program
            raise SettingsError(f"ocr.engine = tesseract: the program does not work: {first_line(error)}") from None
        missing = [name for name in settings.language.split("+") if name not in known]
        if missing:
            there = ", ".join(name for name in known if name != "osd") or "none"
            packages = " ".join(f"tesseract-ocr-{name.lower().replace('_', '-')}" for name in missing)
            raise SettingsError(
                f"ocr.language = {settings.language}: tesseract has no {' and no '.join(missing)}; it has {there}. "
                f"Install more, for instance with `apt-get install {packages}`, or set TESSDATA_PREFIX to their folder"
            )

    @staticmethod
    def require_packages() -> None:
        """Check that pytesseract and tesseract are installed, without importing them.

        Raises:
            SettingsError: one of them is not.
        """
        lacks = []
        if find_spec("pytesseract") is None:
            lacks.append("the package pytesseract: pip install 'layoutner[ocr]'")
        if shutil.which("tesseract") is None:
            lacks.append(
                "the program tesseract, which is not on PATH and which pip does not install: "
                "apt-get install tesseract-ocr, or brew install tesseract"
            )
        if lacks:
            raise SettingsError(
                f"ocr.engine = tesseract needs {'; and '.join(lacks)}. ocr.engine = rapidocr needs no program"
            )

    def read(self, picture: Image.Image) -> list[SeenWord]:
        """The words of a page; see `OcrEngine`."""
        picture.format = None  # pass it to tesseract as PNG, without a second JPEG compression
        output = self._pytesseract.Output.DICT
        try:
            data = self._pytesseract.image_to_data(picture, self._language, output_type=output, timeout=LONGEST_PAGE)
        except Exception as error:  # errors of tesseract, of its output or of its language files
            raise DataError(first_line(error)) from None
        lines: dict[tuple[int, int, int], int] = {}
        words = []
        keys = ("text", "conf", "left", "top", "width", "height", "block_num", "par_num", "line_num")
        for text, confidence, left, top, width, height, *line in zip(*(data.get(key, ()) for key in keys), strict=True):
            # Rows for blocks, paragraphs and lines have confidence -1.
            if confidence >= 0 and text.strip():
                segment = lines.setdefault((line[0], line[1], line[2]), len(lines))
                box = (left, top, left + width, top + height)
                words.append(SeenWord(text.strip(), box, segment, float(confidence) / 100))
        return words
