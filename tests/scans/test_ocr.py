"""Page images to words, with a real tesseract where there is one."""

import os
import shutil
import subprocess
import sys
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw, ImageFont, ImageOps

from layoutner.documents.roles import read_documents
from layoutner.errors import DataError, SettingsError
from layoutner.files.image import PageImage
from layoutner.pages.document import Document, union
from layoutner.pages.page import Page, Problem
from layoutner.readers import scan
from layoutner.scans import tesseract as tesseract_engine
from layoutner.settings.data import DataSettings
from layoutner.settings.tree import load

pytest.importorskip("pytesseract", reason="pip install 'layoutner[ocr]'")
LINES = ("Invoice number 4711", "Total 93.50")


@pytest.fixture
def tesseract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("tesseract") is None:
        pytest.skip("no tesseract: apt-get install tesseract-ocr")
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def page(*lines: str, mode: str = "RGB") -> Image.Image:
    """600 x 300 pixels; line n starts at (40, 40 + 100 n), in letters of 40 pixels."""
    image = Image.new("RGB", (600, 300), "white")
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((40, 40 + 100 * number), line, "black", ImageFont.load_default(40))
    return image.convert(mode)


def read(path: Path) -> list[Document]:
    return read_documents(DataSettings(format="ocr"), path, "test")


@pytest.mark.usefixtures("tesseract")
def test_words_boxes_and_lines_of_an_image(tmp_path: Path) -> None:
    page(*LINES).save(tmp_path / "scan.png")
    (document,) = read(tmp_path / "scan.png")
    assert document.words == ("Invoice", "number", "4711", "Total", "93.50")
    assert document.segments == (0, 0, 0, 1, 1)
    assert document.tags is None
    assert document.page_size == (600, 300)
    assert document.image == PageImage(tmp_path / "scan.png")
    for boxes, number in ((document.boxes[:3], 0), (document.boxes[3:], 1)):
        around = reduce(union, boxes)
        alone = page(*(line if place == number else "" for place, line in enumerate(LINES)))
        drawn = ImageOps.invert(alone).getbbox()
        *sides, bottom = (around[side] * (600, 300)[side % 2] / 1000 for side in range(4))
        assert drawn is not None
        assert sides == pytest.approx(drawn[:3], abs=4)  # pixels
        assert drawn[3] - 2 <= bottom < drawn[3] + 12  # tesseract leaves room for descenders


@pytest.mark.usefixtures("tesseract")
@pytest.mark.parametrize(
    ("name", "mode"), [("a.jpg", "CMYK"), ("a.gif", "P"), ("a.tif", "1"), ("a.webp", "RGBA"), ("a.png", "LA")]
)
def test_any_kind_of_image(tmp_path: Path, name: str, mode: str) -> None:
    page("Total 93.50", mode=mode).save(tmp_path / name)
    (document,) = read(tmp_path / name)
    assert document.words == ("Total", "93.50")


@pytest.mark.usefixtures("tesseract")
def test_a_photo_is_read_as_it_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    page("Total 93.50").transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif, quality=95)
    page("Total 93.50").save(tmp_path / "b.jpg", quality=95)
    turned, upright = read(tmp_path)
    assert turned.words == upright.words == ("Total", "93.50")
    assert turned.page_size == upright.page_size == (600, 300)
    for box, other in zip(turned.boxes, upright.boxes, strict=True):
        assert box == pytest.approx(other, abs=10)


@pytest.mark.usefixtures("tesseract")
def test_grey_of_16_bits_and_ink_on_nothing_are_read(tmp_path: Path) -> None:
    grey = page("Total 93.50", mode="L")
    wide = np.asarray(grey).astype(np.uint16) * 257
    Image.fromarray(wide).save(tmp_path / "a.png")
    ink = Image.new("RGBA", grey.size, (0, 0, 0, 0))
    ink.putalpha(ImageOps.invert(grey))
    ink.save(tmp_path / "b.png")
    assert [document.words for document in read(tmp_path)] == [("Total", "93.50")] * 2


@pytest.mark.usefixtures("tesseract")
def test_a_folder_goes_on_behind_a_bad_image(tmp_path: Path) -> None:
    page("First").save(tmp_path / "a.png")
    page("Cut").save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:-1000])
    (tmp_path / "c.jpg").write_bytes(b"no image")
    Image.new("1", (4000, 3000)).save(tmp_path / "d.png")
    page("Last").save(tmp_path / "e.PNG")
    (tmp_path / "notes.txt").write_text("not a page")
    first, *problems, last = scan.read(tmp_path, "test", DataSettings(format="ocr", max_image_mib=50))
    assert isinstance(first, Page)
    assert isinstance(last, Page)
    assert [word.text for word in first.words + last.words] == ["First", "Last"]
    cut, bad, large = map(str, problems)
    assert "b.png: image file is truncated" in cut
    assert "c.jpg: cannot identify image file" in bad
    assert "d.png: 4000 x 3000 pixels of mode 1 take 57 MiB of memory once unpacked, more than data.max_image" in large


@pytest.mark.usefixtures("tesseract")
def test_a_tiff_of_several_pages(tmp_path: Path) -> None:
    large = Image.new("1", (4000, 3000))
    page("First").save(tmp_path / "fax.tif", save_all=True, append_images=[large, page("Third")])
    first, second, third = scan.read(tmp_path / "fax.tif", "test", DataSettings(format="ocr", max_image_mib=50))
    assert isinstance(first, Page)
    assert isinstance(third, Page)
    assert (first.name, first.image, first.words[0].text) == ("fax-1", PageImage(tmp_path / "fax.tif", 0), "First")
    assert (third.name, third.source, third.words[0].text) == ("fax-3", "fax.tif page 3", "Third")
    assert third.image == PageImage(tmp_path / "fax.tif", 2)
    assert isinstance(second, Problem)
    assert "fax.tif page 2: " in str(second)
    assert "4000 x 3000 pixels of mode 1 take 57 MiB" in str(second)


@pytest.mark.usefixtures("tesseract")
def test_a_blank_page_has_no_words_and_a_missing_language_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page().save(tmp_path / "a.png")
    (blank,) = scan.read(tmp_path, "test")
    assert isinstance(blank, Page)
    assert blank.words == []
    with pytest.raises(SettingsError, match=r"tesseract has no xyz; it has .*eng.*apt-get install tesseract-ocr-xyz"):
        list(scan.read(tmp_path, "test", load(None, {"ocr": {"language": "eng+xyz"}}).data))
    monkeypatch.setenv("TESSDATA_PREFIX", str(tmp_path))  # no language there
    with pytest.raises(SettingsError, match=r"ocr\.(language = eng|engine = tesseract): ") as caught:
        list(scan.read(tmp_path, "test"))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("tesseract")
def test_a_tesseract_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page("First").save(tmp_path / "a.png")
    program = tmp_path / "bin" / "tesseract"
    program.parent.mkdir()
    real = shutil.which("tesseract")
    program.write_text(f'#!/bin/sh\ncase "$1" in --*) exec {real} "$@";; esac\nexec sleep 60\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(tesseract_engine, "LONGEST_PAGE", 0.2)
    (problem,) = scan.read(tmp_path, "test")
    assert str(problem).endswith("a.png: Tesseract process timeout")


def test_without_tesseract_or_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page().save(tmp_path / "a.png")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        SettingsError, match=r"needs the program tesseract.* not install: apt-get install tesseract-ocr"
    ):
        read(tmp_path)
    code = (
        "import sys; sys.modules['pytesseract'] = None\n"
        "from layoutner.errors import SettingsError; from layoutner.scans.tesseract import Tesseract\n"
        "try: Tesseract.require_packages()\n"
        "except SettingsError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "ocr.engine = tesseract needs the package pytesseract: pip install 'layoutner[ocr]'; and the program "
        "tesseract, which is not on PATH and which pip does not install: apt-get install tesseract-ocr, or brew "
        "install tesseract. ocr.engine = rapidocr needs no program\n"
    )


@pytest.mark.usefixtures("tesseract")
def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no PDF and no image \(.pdf, .png, .jpg"):
        read(tmp_path)
