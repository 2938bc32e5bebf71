"""Boxes in another unit than the one they are read in: found by all boxes together, and read rightly when asked."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from layoutner.documents.roles import read_documents, stream
from layoutner.errors import DataError
from layoutner.pages.box_units import Reading, suspect, to_thousandths
from layoutner.pages.document import Document
from layoutner.pages.page import ReadStats
from layoutner.settings.data import DataSettings

A4_300_DPI = (2480, 3508)
Box = tuple[float, float, float, float]


def true_boxes(seed: int, words: int = 30) -> list[Box]:
    """Boxes of words all over a page, in thousandths of it."""
    rng = random.Random(seed)
    boxes = []
    for _ in range(words):
        x, y = rng.randint(40, 860), rng.randint(40, 930)
        boxes.append((x, y, x + rng.randint(20, 110), y + rng.randint(9, 16)))
    return [*boxes, (880, 950, 960, 962)]


def in_unit(boxes: list[Box], unit: str, size: tuple[int, int]) -> list[Box]:
    scale = {"thousandths": (1, 1), "fractions": (0.001, 0.001), "percent": (0.1, 0.1)}
    sx, sy = scale.get(unit, (size[0] / 1000, size[1] / 1000))
    return [(x0 * sx, y0 * sy, x1 * sx, y1 * sy) for x0, y0, x1, y1 in boxes]


def write(path: Path, pages: list[list[Box]], size: tuple[int, int], **keys: Any) -> Path:
    lines = []
    for number, boxes in enumerate(pages):
        words = [{"text": f"w{number}x{at}", "box": list(box), "label": "B-X"} for at, box in enumerate(boxes)]
        lines.append(json.dumps({"document": f"page {number}", "page_size": size, "words": words, **keys}))
    path.write_text("\n".join(lines))
    return path


def read(path: Path, **settings: Any) -> list[Document]:
    return read_documents(DataSettings(format="jsonl", **settings), path, "train")


UNITS = ("thousandths", "pixels", "fractions", "percent")


@pytest.mark.parametrize("stated", UNITS)
@pytest.mark.parametrize("true", UNITS)
def test_a_page_in_another_unit_is_refused_and_the_right_one_named(tmp_path: Path, true: str, stated: str) -> None:
    pages = [in_unit(true_boxes(seed), true, A4_300_DPI) for seed in range(6)]
    file = write(tmp_path / "a.jsonl", pages, A4_300_DPI, unit=stated)
    expected = [side for seed in range(6) for box in true_boxes(seed) for side in box]
    if true == stated:
        found = read(file)
    else:
        with pytest.raises(DataError, match=f'data.box_unit = {true} reads them so .jsonl: "unit": "{true}" on the'):
            read(file)
        found = read(file, box_unit=true)
    # Pixels are rounded down from what is no whole number of them.
    assert [side for document in found for box in document.boxes for side in box] == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("true", ["fractions", "percent"])
def test_fractions_and_percent_of_whole_thousandths_are_these_thousandths(tmp_path: Path, true: str) -> None:
    file = write(tmp_path / "a.jsonl", [in_unit(true_boxes(1), true, A4_300_DPI)], A4_300_DPI, unit=true)
    assert list(read(file)[0].boxes) == true_boxes(1)


@pytest.mark.parametrize("fix", ["none", "clamp", "drop"])
def test_corner_and_size_are_not_taken_for_inverted_corners(tmp_path: Path, fix: str) -> None:
    sizes = [[(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in true_boxes(seed)] for seed in range(2)]
    file = write(tmp_path / "a.jsonl", sizes, A4_300_DPI)
    with pytest.raises(DataError) as caught:
        read(file, invalid_boxes=fix)
    assert "left of or above the first in 31 of 31 boxes" in str(caught.value)
    assert "data.box_format = xywh" in str(caught.value)
    assert "clamp" not in str(caught.value)
    right = [tuple(box) for box in true_boxes(0)]
    assert list(read(file, box_format="xywh")[0].boxes) == right
    said = write(tmp_path / "b.jsonl", sizes, A4_300_DPI, box="xywh")
    assert list(read(said)[0].boxes) == right


def test_corner_and_size_in_fractions_are_named_together(tmp_path: Path) -> None:
    sizes = [(x0 / 1000, y0 / 1000, (x1 - x0) / 1000, (y1 - y0) / 1000) for x0, y0, x1, y1 in true_boxes(4)]
    file = write(tmp_path / "a.jsonl", [sizes], A4_300_DPI)
    with pytest.raises(DataError, match="data.box_format = xywh and data.box_unit = fractions reads them so"):
        read(file)
    # Half of the answer is not enough.
    with pytest.raises(DataError, match="data.box_unit = fractions reads them so"):
        read(file, box_format="xywh")
    found = read(file, box_format="xywh", box_unit="fractions")[0].boxes
    assert [side for box in found for side in box] == pytest.approx([s for box in true_boxes(4) for s in box], abs=1)


def test_what_is_said_is_meant(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [in_unit(true_boxes(1), "fractions", A4_300_DPI)], A4_300_DPI)
    assert set(read(file, box_unit="thousandths")[0].boxes) == {(0, 0, 0, 0)}


def test_fractions_without_their_decimals_cannot_be_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [[(0, 0, 1, 1)] * 12], A4_300_DPI)
    with pytest.raises(DataError, match="every side of its 12 boxes is 0 or 1"):
        read(file)


def test_one_page_decides_where_pages_are_predicted_one_by_one(tmp_path: Path) -> None:
    pages = [true_boxes(0), in_unit(true_boxes(1), "percent", A4_300_DPI), true_boxes(2)]
    file = write(tmp_path / "a.jsonl", pages, A4_300_DPI)
    found = list(stream(DataSettings(format="jsonl"), file, "test", ReadStats()))
    assert [isinstance(one, Document) for one in found] == [True, False, True]
    stats = ReadStats()
    found = list(stream(DataSettings(format="jsonl", bad_pages="skip"), file, "test", stats))
    assert [one == [] for one in found] == [False, True, False]
    assert stats.skipped == 1
    assert "percent of the page" in str(stats.first_skipped)


def test_where_all_pages_are_skipped_the_reason_is_told(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [in_unit(true_boxes(1), "fractions", A4_300_DPI)] * 2, A4_300_DPI)
    with pytest.raises(DataError, match="0 documents and not one word; 2 left out, the first: .*data.box_unit = frac"):
        read(file, bad_pages="skip")


def notes(file: Path, **settings: Any) -> list[str]:
    stats = ReadStats()
    read_documents(DataSettings(format="jsonl", **settings), file, "train", stats)
    return stats.notes


@pytest.mark.parametrize(
    ("true", "stated", "size"), [("pixels", "thousandths", (700, 990)), ("thousandths", "pixels", (1240, 1754))]
)
def test_pixels_and_thousandths_that_both_fit_are_told_apart_by_many_pages(
    tmp_path: Path, true: str, stated: str, size: tuple[int, int]
) -> None:
    pages = [in_unit(true_boxes(seed), true, size) for seed in range(12)]
    found = notes(write(tmp_path / "a.jsonl", pages, size, unit=stated))
    assert len(found) == 1
    assert f"data.box_unit = {true} reads them so" in found[0]
    assert notes(write(tmp_path / "few.jsonl", pages[:9], size, unit=stated)) == []
    assert notes(write(tmp_path / "right.jsonl", pages, size, unit=true)) == []
    assert notes(tmp_path / "a.jsonl", box_unit=stated) == []


def test_boxes_in_the_corner_of_every_page_stop_a_run(tmp_path: Path) -> None:
    pages = [true_boxes(seed) for seed in range(5)]
    file = write(tmp_path / "a.jsonl", pages, A4_300_DPI, unit="pixels")
    with pytest.raises(DataError, match=r"boxes of all 5 pages lie in the first 38\d thousandths.*box_unit = thousand"):
        read(file)
    assert len(read(write(tmp_path / "b.jsonl", pages[:4], A4_300_DPI, unit="pixels"))) == 4  # too few to tell


def test_pages_without_layout_are_noted(tmp_path: Path) -> None:
    found = notes(write(tmp_path / "a.jsonl", [[(0, 0, 0, 0)] * 12] * 3, A4_300_DPI))
    assert [note.partition(": ")[2] for note in found] == [
        "every box is [0, 0, 0, 0]: there is no layout to learn from"
    ]


@pytest.mark.parametrize(
    "boxes",
    [
        [(40, 40, 90, 52)] * 9 + [(40, 80, 90, 92)] * 9,  # a short heading and nothing else
        [(40, 40, 60, 52), (50, 50, 40, 60)] * 8,  # half of them inverted: as many mistakes as that are mistakes
        [(900, 900, 1200, 1300)] + [(40, 40, 90, 52)] * 12,  # one box off the page
        [(100, 100, 900, 400)] * 12,  # a poster
    ],
)
def test_odd_pages_are_not_suspected(boxes: list[Box]) -> None:
    assert suspect(boxes, Reading("thousandths", "xyxy"), (2480, 3508)) is None


def test_pixels_are_scaled_as_in_the_layoutlm_preprocessing() -> None:
    box = to_thousandths((253, 1000, 375, 1024), "pixels", (762, 1000))
    assert tuple(map(int, box)) == (int(1000 * 253 / 762), 1000, int(1000 * 375 / 762), 1024)


@pytest.mark.parametrize(
    ("format", "folder", "role"),
    [
        ("funsd", "funsd", "train"),
        ("funsd", "funsd", "test"),
        ("unilm", "funsd_unilm", "train"),
        ("sroie", "sroie2019/train", "train"),
        ("cord", "cord_v1", "train"),
    ],
)
def test_no_page_of_public_data_is_suspected(real_data: Path, format: str, folder: str, role: str) -> None:
    stats = ReadStats()
    settings = DataSettings(format=format, invalid_boxes="clamp")  # type: ignore[arg-type]
    found = list(stream(settings, real_data / folder, role, stats))
    assert all(isinstance(one, Document) for one in found)
    assert stats.notes == []
