"""PDFs and pictures of pages become pages: by the text layer of a PDF, or by an OCR engine."""

from layoutner.scans.engine import OcrEngine
from layoutner.scans.rapidocr import RapidOcr
from layoutner.scans.tesseract import Tesseract
from layoutner.settings.ocr import EngineName, OcrSettings

ENGINES: dict[EngineName, type[Tesseract] | type[RapidOcr]] = {"tesseract": Tesseract, "rapidocr": RapidOcr}


def open_engine(settings: OcrSettings) -> OcrEngine:
    """The OCR engine of the settings.

    Raises:
        SettingsError: something that it needs is not installed.
    """
    return ENGINES[settings.engine](settings)


def require_engine(settings: OcrSettings) -> None:
    """Check that the packages and programs of the engine are installed, without importing them.

    Raises:
        SettingsError: one of them is not.
    """
    ENGINES[settings.engine].require_packages()
