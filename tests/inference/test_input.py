"""Which pages of an input stop a command, and which are left out and counted."""

from pathlib import Path

import pytest

from layoutner.errors import DataError
from layoutner.inference.input import ReportingStats, documents, lost_pages
from layoutner.pages.page import Problem
from layoutner.settings.data import DataSettings
from tests.builders.pages import lines, page


def test_pages_without_an_image_stop_or_are_counted_as_data_bad_pages_says() -> None:
    stats, lost = ReportingStats(), [Problem("d1", "no page image", "has no page image")]
    lost_pages(DataSettings(bad_pages="skip"), stats)(lost)
    assert stats.skipped == 1
    with pytest.raises(DataError, match=r"1 document\(s\) have no page image, which the model needs: d1: has no page"):
        lost_pages(DataSettings(bad_pages="stop"), stats)(lost)
    assert stats.skipped == 1


def test_what_does_not_stop_is_not_among_the_problems_that_do(tmp_path: Path) -> None:
    odd = page("a", ["x", "y"])
    odd["words"][0] |= {"label": "E-A"}  # read as conlleval reads it
    odd["words"][1] |= {"label": "O", "box": [0, 0, 5, 1200]}
    file = tmp_path / "in.jsonl"
    file.write_text(lines(odd))
    with pytest.raises(DataError, match=r"^1 problem\(s\) in a page of .*\): [^\n]*leaves the page[^\n]*$"):
        list(documents(DataSettings(format="jsonl"), file, "test", ReportingStats(), "require"))


def test_an_input_all_of_whose_pages_are_left_out_is_none_without_a_page(tmp_path: Path) -> None:
    file, stats = tmp_path / "in.jsonl", ReportingStats()
    file.write_text("{\n")
    assert list(documents(DataSettings(format="jsonl", bad_pages="skip"), file, "test", stats, "ignore")) == [None]
    assert stats.skipped == 1
    file.write_text("")
    with pytest.raises(DataError, match="holds no document"):
        list(documents(DataSettings(format="jsonl", bad_pages="skip"), file, "test", ReportingStats(), "ignore"))
