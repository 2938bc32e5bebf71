"""RapidOCR reads lines with the networks of its package, and needs no network."""

import socket

import pytest
from PIL import Image, ImageDraw, ImageFont

from layoutner.scans import open_engine
from layoutner.settings.ocr import OcrSettings

pytest.importorskip("rapidocr", reason="pip install 'layoutner[rapidocr]'")


@pytest.mark.slow
def test_words_of_lines_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("it connects to something")

    monkeypatch.setattr(socket.socket, "connect", refused)
    picture = Image.new("RGB", (600, 300), "white")
    for number, line in enumerate(("Invoice number 4711", "Total 93.50")):
        ImageDraw.Draw(picture).text((40, 40 + 100 * number), line, "black", ImageFont.load_default(40))
    engine = open_engine(OcrSettings(engine="rapidocr"))
    words = engine.read(picture)
    assert [word.text for word in words] == ["Invoice", "number", "4711", "Total", "93.50"]
    assert [word.segment for word in words] == [0, 0, 0, 1, 1]
    assert all(0.5 < word.confidence <= 1 for word in words)
    for word, top in zip(words, (40, 40, 40, 140, 140), strict=True):
        left, upper, right, lower = word.box
        assert 30 <= left < right <= 600
        assert top - 20 <= upper < lower <= top + 70
    assert engine.read(Image.new("RGB", (200, 100), "white")) == []
    assert engine.version
