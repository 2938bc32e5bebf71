"""RapidOCR: the networks of PaddleOCR in onnxruntime (`pip install 'layoutner[rapidocr]'`), which needs no program.

The networks come with its package. They are given to it by path, so it downloads nothing.
"""

import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from layoutner.errors import DataError, SettingsError, first_line
from layoutner.pages.text_lines import around, cut_line
from layoutner.scans.engine import Box, SeenWord
from layoutner.settings.ocr import OcrSettings

INSTALL = "pip install 'layoutner[rapidocr]'"
MODELS = {"Det": "*_det_*.onnx", "Rec": "*_rec_*.onnx", "Cls": "*_cls_*.onnx"}  # part of the engine -> its file


class RapidOcr:
    """The package rapidocr. It finds and reads whole lines."""

    name = "rapidocr"

    def __init__(self, settings: OcrSettings) -> None:
        """
        Raises:
            SettingsError: rapidocr or onnxruntime is not installed, or not whole.
        """
        self.require_packages()
        from rapidocr import RapidOCR

        spec = find_spec("rapidocr")
        assert spec is not None, "refused above"
        assert spec.origin is not None, "a package"
        folder = Path(spec.origin).parent / "models"
        params: dict[str, Any] = {
            "Global.log_level": "critical",
            # Tesseract obeys this variable too; onnxruntime takes every CPU without it.
            "EngineConfig.onnxruntime.intra_op_num_threads": int(os.environ.get("OMP_THREAD_LIMIT", "-1")),
        }
        for part, pattern in MODELS.items():
            file = next(iter(sorted(folder.glob(pattern))), None)
            if file is None:
                raise SettingsError(f"ocr.engine = rapidocr: {folder} holds no {pattern}: {INSTALL}")
            params[f"{part}.model_path"] = str(file)
        self.version = version("rapidocr")
        self._engine = RapidOCR(params=params)

    @staticmethod
    def require_packages() -> None:
        """Check that rapidocr and onnxruntime are installed, without importing them.

        Raises:
            SettingsError: one of them is not.
        """
        if lacks := [name for name in ("rapidocr", "onnxruntime") if find_spec(name) is None]:
            raise SettingsError(f"ocr.engine = rapidocr needs the package {' and '.join(lacks)}: {INSTALL}")

    def read(self, picture: Image.Image) -> list[SeenWord]:
        """The words of a page; see `OcrEngine`."""
        pixels = np.asarray(picture)[:, :, ::-1]  # the package takes blue, green, red
        try:
            found = self._engine(np.ascontiguousarray(pixels), return_word_box=True)
        except Exception as error:  # of the package, of OpenCV or of onnxruntime
            raise DataError(f"rapidocr: {first_line(error)}") from None
        if found.txts is None:
            return []
        known = found.word_results if len(found.word_results) == len(found.txts) else [()] * len(found.txts)
        words: list[SeenWord] = []
        for segment, (text, corners, score, parts) in enumerate(
            zip(found.txts, found.boxes, found.scores, known, strict=True)
        ):
            if [part[0] for part in parts] == text.split():
                words += [SeenWord(word, _box(its), segment, float(sure)) for word, sure, its in parts]
            else:  # it divides Chinese, for instance, into characters
                words += [SeenWord(word, box, segment, float(score)) for word, box in cut_line(text, _box(corners))]
        return words


def _box(corners: Any) -> Box:
    """The upright box around four corners, which are numbers of numpy."""
    return around([(float(x), float(y)) for x, y in corners])
