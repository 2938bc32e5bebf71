"""The report in a real browser: filters, light and dark, narrow screens, and texts of documents that never run."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from layoutner.pages.labels import LabelSet
from layoutner.reports.report import report_runs
from tests.builders.errors import errors_of, tagged_page
from tests.builders.run_folder import hostile_run, run_folder
from tests.builders.scores import score_tags

pytestmark = pytest.mark.slow

LABELS = LabelSet("BIO", ("DATE", "TOTAL"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two runs with pages of a missed, a spurious and a mistyped entity."""
    folder = tmp_path_factory.mktemp("report")
    Image.new("RGB", (600, 800), "white").save(folder / "page.png")
    tags = ["B-DATE", "O", "O"]
    pages = [
        (tagged_page("missed only", ["a", "b", "c"], tags, folder / "page.png"), ["O", "O", "O"]),
        (tagged_page("spurious only", ["a", "b", "c"], tags), ["B-DATE", "O", "B-TOTAL"]),
        (tagged_page("wrong type only", ["a", "b", "c"], tags), ["B-TOTAL", "O", "O"]),
    ]
    scores = score_tags([tags] * 3, [predicted for _, predicted in pages], LABELS)
    rows = [{"step": step, "train/loss": 1 / step, "eval/f1": step / 9} for step in range(1, 9)]
    runs = [run_folder(folder / "one", rows, scores, errors_of(pages, LABELS)), run_folder(folder / "two", rows[:5])]
    report_runs(runs, folder / "report.html", 50, 100)
    return folder / "report.html"


def visible(browser: Any, selector: str) -> list[str]:
    return [one.text for one in browser.find_elements("css selector", selector) if one.is_displayed()]


def click(browser: Any, kind: str) -> None:
    browser.find_element("css selector", f"#filter input[value={kind}]").click()


def complaints(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]


def test_the_filters_hide_and_show(browser: Any, report: Path) -> None:
    browser.get(report.as_uri())
    assert complaints(browser) == []
    names = ["missed only", "spurious only", "wrong type only"]
    assert visible(browser, "article h3") == names
    assert visible(browser, "#shown") == ["3 of 3 pages"]
    assert visible(browser, "li") == [
        "missed: DATE a",
        "spurious: TOTAL c 0.75",
        "wrong type: DATE read as TOTAL a 0.75",
    ]
    click(browser, "missed")
    assert visible(browser, "article h3") == names[1:]
    assert visible(browser, "#shown") == ["2 of 3 pages"]
    click(browser, "spurious")
    click(browser, "wrong-type")
    assert visible(browser, "article h3") == []
    click(browser, "correct")
    assert visible(browser, "li") == ["correct: DATE a 0.75"]
    assert len(visible(browser, "g.correct")) == 1
    for kind in ("missed", "spurious", "wrong-type"):
        click(browser, kind)
    assert len(visible(browser, "li")) == 4


def test_a_line_marks_its_box(browser: Any, report: Path) -> None:
    from selenium.webdriver import ActionChains

    browser.get(report.as_uri())
    line = browser.find_element("css selector", "li.spurious")
    ActionChains(browser).move_to_element(line).perform()
    (marked,) = browser.find_elements("css selector", "g.marked")
    assert marked.get_attribute("id") == line.get_attribute("data-at")


def test_light_and_dark(browser: Any, report: Path) -> None:
    def colours(scheme: str) -> tuple[int, int, int]:
        """Brightness of the page, its text, and the text of a chart, 0 to 765."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(report.as_uri())
        found = browser.execute_script(
            "const style = (name) => getComputedStyle(document.querySelector(name));"
            "return [style('body').backgroundColor, style('body').color, style('figure svg text').fill];"
        )
        return tuple(sum(int(part) for part in one.strip("rgb()").split(",")) for one in found)  # type: ignore[return-value]

    page, text, chart = colours("light")
    assert page > 700
    assert max(text, chart) < 150
    page, text, chart = colours("dark")
    assert page < 100
    assert min(text, chart) > 600


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_nothing_is_wider_than_the_screen(width: int, browser: Any, report: Path) -> None:
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(report.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_texts_of_documents_never_run(browser: Any, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    report_runs([hostile_run(tmp_path / "<img src=x onerror='window.ran = 4'>")], out, 50, 100)
    browser.get(out.as_uri())
    assert complaints(browser) == []
    assert browser.execute_script("return window.ran") is None
    assert len(browser.find_elements("css selector", "script")) == 1
    assert "<script>window.ran = 1</script>" in browser.find_element("css selector", "main").text
    # What would run is refused by the page itself, too.
    browser.execute_script(
        "const one = document.createElement('script'); one.textContent = 'window.ran = 5'; document.body.append(one);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 6\">');"
    )
    assert browser.execute_async_script("setTimeout(() => arguments[0](window.ran ?? null), 200)") is None
    assert len(complaints(browser)) >= 2
