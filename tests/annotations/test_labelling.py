"""Regions become labels of words: by the share of a word's area, and in the order of the words."""

from pathlib import Path

import pytest

from layoutner.annotations.labelling import LabelCounts, label_words
from layoutner.annotations.page_names import PageNames, stem
from layoutner.annotations.region import AnnotatedPage, Region, rectangle, turned
from layoutner.files.image import PageImage
from tests.builders.annotations import document, invoice

PAGE = invoice("a")


def region(kind: str | None, x0: float, y0: float, x1: float, y1: float, entity: str | None = None) -> Region:
    return Region(kind, rectangle(x0, y0, x1 - x0, y1 - y0), entity=entity)


def test_words_of_a_region_are_an_entity() -> None:
    counts = LabelCounts()
    regions = [region("AMOUNT", 0.29, 0.09, 0.47, 0.13), region("NAME", 0.09, 0.19, 0.25, 0.23)]
    assert label_words(PAGE, regions, counts) == ("O", "B-AMOUNT", "I-AMOUNT", "B-NAME", "I-NAME")
    assert (counts.matched, counts.empty, counts.cut, counts.inside, counts.outside) == (2, [], [], 4, 1)
    assert counts.types == {"AMOUNT": 1, "NAME": 1}


def test_a_word_belongs_to_the_region_that_covers_most_of_it_and_at_least_half() -> None:
    counts = LabelCounts()
    half, less = region("A", 0.05, 0.09, 0.15, 0.13), region("B", 0.36, 0.09, 0.405, 0.13)
    assert label_words(PAGE, [half, less], counts) == ("B-A", "O", "O", "O", "O")
    assert [(cut.text, cut.type, cut.share) for cut in counts.cut] == [("Total", "A", 0.5), ("9.00", "B", 0.4)]
    assert counts.empty == ["a: B"]
    most = region("C", 0.12, 0.09, 0.25, 0.13)
    assert label_words(PAGE, [half, most], LabelCounts())[0] == "B-C"


def test_of_equals_the_smaller_region_has_the_word_then_the_first() -> None:
    counts = LabelCounts()
    large, small = region("LARGE", 0, 0, 1, 1), region("SMALL", 0.29, 0.09, 0.41, 0.13)
    assert label_words(PAGE, [large, small], counts) == ("B-LARGE", "B-SMALL", "B-LARGE", "I-LARGE", "I-LARGE")
    assert (counts.contested, counts.interrupted, counts.types) == (1, 1, {"LARGE": 2, "SMALL": 1})
    assert label_words(PAGE, [large, region("OTHER", 0, 0, 1, 1)], LabelCounts())[0] == "B-LARGE"


def test_regions_without_a_label_and_parts_of_one_entity() -> None:
    counts = LabelCounts()
    parts = [region("A", 0.29, 0.09, 0.405, 0.13, "1"), region("A", 0.405, 0.09, 0.47, 0.13, "1")]
    assert label_words(PAGE, [*parts, region(None, 0, 0, 1, 1)], counts)[:3] == ("O", "B-A", "I-A")
    assert counts.unlabelled == 1
    apart = [region("A", 0.29, 0.09, 0.405, 0.13), region("A", 0.405, 0.09, 0.47, 0.13)]
    assert label_words(PAGE, apart, LabelCounts())[:3] == ("O", "B-A", "B-A")


def test_a_box_without_an_area_counts_as_a_thousandth_wide() -> None:
    page = document("a", ("|", (500, 100, 500, 100)))
    assert label_words(page, [region("A", 0.4, 0.05, 0.6, 0.15)], LabelCounts()) == ("B-A",)
    assert label_words(page, [region("A", 0.4, 0.05, 0.5, 0.15)], LabelCounts()) == ("O",)


@pytest.mark.parametrize(
    ("points", "share"),
    [
        (((0, 0), (1, 0), (0, 1)), 0.5),  # a triangle
        (((0, 0), (1, 0), (1, 1), (0.5, 0.5), (0, 1)), 0.75),  # one with a notch
        (((0, 0), (0, 1), (1, 1), (1, 0)), 1.0),  # the other way round
        (((-5, -5), (5, -5), (5, 0.25), (-5, 0.25)), 0.25),
        (((2, 2), (3, 2), (3, 3)), 0.0),
        (((0, 0), (1, 1), (0, 0)), 0.0),  # a line
    ],
)
def test_the_share_of_a_box_in_a_polygon(points: tuple[tuple[float, float], ...], share: float) -> None:
    assert Region("A", points).share_of((0, 0, 1, 1)) == pytest.approx(share)


def test_a_turned_rectangle_is_turned_in_pixels_around_its_corner() -> None:
    # 400 x 100 pixels at (200, 100) on 800 x 1000, turned by 90 degrees: from (200, 100) to (100, 500).
    points = turned(rectangle(0.25, 0.1, 0.5, 0.1), 90, 800 / 1000)
    assert Region("A", points).box == pytest.approx((0.125, 0.1, 0.25, 0.5))
    assert Region("A", turned(rectangle(0.2, 0.2, 0.1, 0.1), 45, 1.0)).area == pytest.approx(0.01)


# Names


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("invoice-1.png", "invoice-1"),
        ("/data/upload/1/1a2b3c4d-my%20page.v2.PNG", "1a2b3c4d-my page.v2"),
        ("/data/local-files/?d=scans%2Fa%2Bb.tif", "a+b"),
        ("/data/local-files/?d=scans/100%25.jpg", "100%"),
        ("https://bucket.example/x/y.jpg?signature=a/b.c", "y"),
        ("s3://bucket/folder/z.pdf", "z"),
        ("C:\\scans\\w.png", "w"),
        ("100%.png", "100%"),
        ("no suffix.v1", "no suffix.v1"),
        ("http://[", "["),
    ],
)
def test_the_stem_of_paths_and_urls(name: str, found: str) -> None:
    assert stem(name) == found


def test_pages_are_found_by_name_upload_prefix_and_number() -> None:
    pages = [
        invoice("a"),
        invoice("scan-1", group="scan.pdf"),
        invoice("scan-2", group="scan.pdf"),
        invoice("report-0007"),
        invoice("same"),
        invoice("Same"),
        invoice("deadbeef-b"),
        invoice("bill-002", group="bill-002"),
        invoice("bill-003-2", group="bill-003"),
        invoice("x", image=PageImage(Path("folder/fax.tif"), 4)),
        invoice("note-1", image=PageImage(Path("images/note/1.png"))),
        invoice("memo-1", image=PageImage(Path("images/memo/1.png"))),
    ]
    names = PageNames(pages)

    def find(name: str, number: int | None = None) -> list[int]:
        return names.find(AnnotatedPage("task 1", (name,), (), number))

    assert find("/x/a.png") == [0]
    assert find("/data/upload/3/0f3a9c1d-A.jpg") == [0]
    assert find("0f3a9c1d-scan_page_2.png") == find("scan-p02.png") == find("scan.pdf", 2) == [2]
    assert find("scan.pdf") == [1]
    assert find("report_7.png") == [3]
    assert find("a-p1.png") == [0]
    assert find("same.png") == [4, 5]
    assert find("deadbeef-b.png") == [6]
    assert find("deadbeef-a.png") == [0]
    assert find("bill-002-p1.png") == find("bill-002.pdf", 1) == [7]  # its number is not that of a page
    assert find("bill-003-p2.png") == [8]
    assert find("fax_page_5.png") == [9]
    assert find("?d=images/note/1.png") == [10]
    assert find("images/memo/1.png") == [11]
    assert find("1.png") == [10, 11]
    own = AnnotatedPage("task 1", ("a", "/x/same.png"), ())  # "document" comes before the image
    assert names.find(own) == [0]
    assert find("z.png") == find("a.png", 2) == []
