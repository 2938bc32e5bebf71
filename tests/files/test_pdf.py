"""PDFs: pages, words and their boxes, pictures, and what cannot be read."""

from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from layoutner.errors import DataError
from layoutner.files import pdf as pdf_file
from layoutner.files.image import PageImage, find_page, page_images, read_image
from layoutner.files.pdf import DPI, open_pdf
from layoutner.files.text_layer import PdfWord
from tests.builders.pdfs import Sheet, box_of, pdf, scan, text, write_pdf

# Ink is narrower than the room of a letter: in Courier by less than a tenth of the font's size on either side.
SIDE = 0.1 * 12


def words(path: Path, page: int = 0) -> list[PdfWord]:
    with open_pdf(path) as opened:
        return opened.text_layer(page).words


def test_words_have_the_boxes_where_they_were_written(tmp_path: Path) -> None:
    file = write_pdf(tmp_path / "a.pdf", Sheet(text(72, 700, "HELLO WORLD") + text(72, 650, "TOTAL")))
    found = words(file)
    assert [(word.text, word.segment) for word in found] == [("HELLO", 0), ("WORLD", 0), ("TOTAL", 1)]
    places = [(72, 700), (72 + 6 * 7.2, 700), (72, 650)]
    for word, (x, y) in zip(found, places, strict=True):
        assert word.box == pytest.approx(box_of(x, y, word.text, 12, 792), abs=SIDE)


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("crop", [None, (50, 400, 500, 750)])
def test_a_page_is_read_as_it_is_seen(tmp_path: Path, rotate: int, crop: tuple[int, int, int, int] | None) -> None:
    file = write_pdf(tmp_path / "a.pdf", Sheet(text(72, 700, "HELLO WORLD"), rotate=rotate, crop=crop))
    left, bottom, right, top = crop or (0, 0, 612, 792)
    width, height = right - left, top - bottom
    x0, y0, x1, y1 = box_of(72 - left, 700 - bottom, "HELLO", 12, height)
    turned = {
        0: (x0, y0, x1, y1),
        90: (height - y1, x0, height - y0, x1),
        180: (width - x1, height - y1, width - x0, height - y0),
        270: (y0, width - x1, y1, width - x0),
    }
    with open_pdf(file) as opened:
        size = opened.size(0)
        hello, world = opened.text_layer(0).words
        picture = np.asarray(opened.picture(0, 1024).convert("L"))
    assert size == ((width, height) if rotate % 180 == 0 else (height, width))
    assert (hello.text, world.text, hello.segment, world.segment) == ("HELLO", "WORLD", 0, 0)
    assert hello.box == pytest.approx(turned[rotate], abs=SIDE)
    # The ink of the picture lies in the boxes of the words.
    rows, columns = np.nonzero(picture < 128)
    ink = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * 72 / DPI
    both = np.array([hello.box, world.box])
    assert ink == pytest.approx([*both[:, :2].min(axis=0), *both[:, 2:].max(axis=0)], abs=2 * 72 / DPI)


@pytest.mark.parametrize("matrix", ["0 1 -1 0", "0 -1 1 0", "-1 0 0 -1"])
def test_lines_in_any_direction_are_in_order(tmp_path: Path, matrix: str) -> None:
    file = write_pdf(tmp_path / "a.pdf", Sheet(text(300, 400, "ONE TWO THREE", matrix=matrix)))
    assert [(word.text, word.segment) for word in words(file)] == [("ONE", 0), ("TWO", 0), ("THREE", 0)]


def test_words_without_spaces_are_divided_at_gaps(tmp_path: Path) -> None:
    content = b"".join(text(x, 700, word) for x, word in ((72, "NO"), (72 + 2 * 7.2 + 3.6, "SPACE"), (200, "FAR")))
    found = [word.text for word in words(write_pdf(tmp_path / "a.pdf", Sheet(content)))]
    assert found == ["NO", "SPACE", "FAR"]


def test_words_of_a_line_are_in_the_order_of_reading(tmp_path: Path) -> None:
    file = write_pdf(tmp_path / "a.pdf", Sheet(text(200, 700, "93.50") + text(72, 700, "TOTAL")))
    assert [(word.text, word.segment) for word in words(file)] == [("TOTAL", 0), ("93.50", 0)]


def test_a_hyphen_at_the_end_of_a_line_stays(tmp_path: Path) -> None:
    file = write_pdf(tmp_path / "a.pdf", Sheet(text(72, 700, "NEXT-") + text(72, 686, "LINE")))
    assert [(word.text, word.segment) for word in words(file)] == [("NEXT-", 0), ("LINE", 1)]


def test_ligatures_pairs_and_characters_without_meaning(tmp_path: Path) -> None:
    meanings = {65: "fb01", 66: "0066", 67: "d83dde42", 68: "e000"}
    file = write_pdf(tmp_path / "a.pdf", Sheet(text(72, 700, "ABC D", font="F2"), unicode=meanings))
    with open_pdf(file) as opened:
        layer = opened.text_layer(0)
    assert [word.text for word in layer.words] == ["fif🙂", "\ue000"]
    assert layer.unmapped == 1


def test_values_of_form_fields_are_words(tmp_path: Path) -> None:
    place = (100, 600, 250, 620)
    file = write_pdf(tmp_path / "a.pdf", Sheet(text(72, 700, "NAME"), field=("FILLED", place)))
    name, filled = words(file)
    assert (name.text, filled.text) == ("NAME", "FILLED")
    assert filled.box == pytest.approx(box_of(102, 603, "FILLED", 12, 792), abs=SIDE)


def test_what_lies_off_the_page_is_not_read(tmp_path: Path) -> None:
    sheet = Sheet(text(72, 700, "INSIDE") + text(72, 100, "BELOW") + text(900, 700, "RIGHT"), crop=(0, 400, 612, 792))
    assert [word.text for word in words(write_pdf(tmp_path / "a.pdf", sheet))] == ["INSIDE"]


def test_images_cover_a_scan_and_nothing_a_blank_page(tmp_path: Path) -> None:
    file = write_pdf(tmp_path / "a.pdf", scan("Total"), Sheet(b""), Sheet(text(72, 700, "TEXT")))
    with open_pdf(file) as opened:
        assert [opened.image_share(page) for page in range(3)] == pytest.approx([1, 0, 0])
        assert [opened.is_blank(page) for page in range(3)] == [False, True, False]


def test_pages_are_frames_of_an_image_file(tmp_path: Path) -> None:
    file = write_pdf(tmp_path / "a.pdf", Sheet(b""), Sheet(b"", rotate=90))
    assert page_images(file) == [PageImage(file, 0), PageImage(file, 1)]
    image, size = find_page(file, 1)
    assert (image, size) == (PageImage(file, 1), (2200, 1700))
    assert read_image(image, 1024).size == size
    with pytest.raises(DataError, match=r'holds 2 pages.*"frame", here one of 0, 1'):
        find_page(file)
    with pytest.raises(DataError, match='"frame" is 2, and the file has the pages 0 to 1'):
        find_page(file, 2)
    with pytest.raises(DataError, match=r"1700 x 2200 pixels at 200 dpi, which take 29 MiB.*data.max_image_mib = 20"):
        read_image(PageImage(file, 0), 20)
    single = write_pdf(tmp_path / "b.bin", Sheet(b""))
    assert page_images(single) == [PageImage(single)]  # known by its content


def test_what_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = Sheet(text(72, 700, "SECRET"))
    encrypted = write_pdf(tmp_path / "a.pdf", sheet, password="secret")
    with pytest.raises(DataError, match=r"a\.pdf: is encrypted; save it without a password"):
        words(encrypted)
    assert [word.text for word in words(write_pdf(tmp_path / "b.pdf", sheet, password=""))] == ["SECRET"]
    (tmp_path / "c.pdf").write_bytes(pdf(sheet)[:100])
    with pytest.raises(DataError, match=r"c\.pdf: is damaged, or not a PDF"):
        words(tmp_path / "c.pdf")
    with pytest.raises(DataError, match=r"d\.pdf: no such file"):
        words(tmp_path / "d.pdf")
    monkeypatch.setattr(pdf_file, "LARGEST_PDF", 100)
    with pytest.raises(DataError, match="are more than 100; divide it"):
        words(encrypted)


def test_threads_read_at_once(tmp_path: Path) -> None:
    files = [write_pdf(tmp_path / f"{n}.pdf", *[Sheet(text(72, 700, f"W{n}"))] * 5) for n in range(4)]
    found: dict[int, list[str]] = {}

    def read(number: int) -> None:
        with open_pdf(files[number]) as opened:
            found[number] = [word.text for page in range(5) for word in opened.text_layer(page).words]

    threads = [Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [f"W{number}"] * 5 for number in range(4)}
