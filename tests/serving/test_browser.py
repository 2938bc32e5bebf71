"""The upload page in a real browser: a document becomes boxes and a list, and its texts never run."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.builders.pages import page
from tests.builders.processes import HANGS_S
from tests.builders.servers import ServerProcess

pytestmark = pytest.mark.slow

PICTURES = os.environ.get("LAYOUTNER_TEST_PICTURES")  # folder for screenshots, for somebody to look at


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def every(browser: Any, selector: str) -> list[Any]:
    found: list[Any] = browser.find_elements("css selector", selector)
    return found


def upload(browser: Any, server: ServerProcess, file: Path) -> str:
    """Choose a file and send it with the keyboard; returns what the page says then."""
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(server.address)
    find(browser, "#file").send_keys(str(file))
    find(browser, "#send").send_keys(Keys.ENTER)
    WebDriverWait(browser, HANGS_S).until(
        lambda _: find(browser, "#status").text and "Reading" not in find(browser, "#status").text
    )
    return str(find(browser, "#status").text)


def picture(browser: Any, name: str) -> None:
    if PICTURES is not None:
        browser.save_screenshot(str(Path(PICTURES) / name))


def complaints(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]


def test_a_document_becomes_boxes_and_a_list(browser: Any, server: ServerProcess, form_image: Path) -> None:
    from selenium.webdriver import ActionChains

    said = upload(browser, server, form_image)
    lines, boxes = every(browser, ".field"), every(browser, "rect.box")
    assert said.startswith(f"{len(lines)} fields on 1 page")
    assert len(lines) == len(boxes) > 0
    assert find(browser, "svg image").get_attribute("href").startswith("data:image/webp")
    answer = json.loads(find(browser, "#json").get_attribute("textContent"))
    assert [line.find_element("css selector", "span").text.splitlines()[0] for line in lines] == [
        field["text"] for fields in answer["fields"].values() for field in fields
    ]
    ActionChains(browser).move_to_element(lines[0]).perform()
    (marked,) = every(browser, "rect.marked")
    assert marked == boxes[0]
    browser.execute_script("arguments[0].focus()", lines[1])  # as the Tab key does
    assert boxes[1] in every(browser, "rect.marked")
    assert find(browser, "#model").text == "layoutlm, layoutlm"
    assert complaints(browser) == []


def test_texts_of_documents_never_run(browser: Any, server: ServerProcess, tmp_path: Path) -> None:
    hostile = [
        "<img src=x onerror='window.ran=1'>",
        "<script>window.ran=2</script>",
        "javascript:window.ran=3",
        "&lt;b>",
    ]
    tree = page("<svg onload='window.ran=4'>", hostile * 5)
    (tmp_path / "page.json").write_text(json.dumps(tree))
    said = upload(browser, server, tmp_path / "page.json")
    assert "on 1 page" in said
    shown = find(browser, "#view").get_attribute("textContent")
    assert all(text in shown for text in hostile)
    assert "<svg onload" in find(browser, "h2").text
    assert browser.execute_async_script("setTimeout(() => arguments[0](window.ran ?? null), 200)") is None
    assert complaints(browser) == []
    browser.execute_script("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 6\">');")
    assert browser.execute_async_script("setTimeout(() => arguments[0](window.ran ?? null), 200)") is None
    assert any("Content Security Policy" in message for message in complaints(browser))


def test_an_error_is_shown_as_it_is(browser: Any, server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("words")
    assert "unknown kind" in upload(browser, server, tmp_path / "words.png")
    assert find(browser, "#status").get_attribute("class") == "bad"
    assert not find(browser, "#view").is_displayed()
    (tmp_path / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(3 * 2**20))
    assert "1 MiB" in upload(browser, server, tmp_path / "large.png")
    assert find(browser, "#send").is_enabled()
    complaints(browser)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_light_dark_and_narrow(width: int, scheme: str, browser: Any, server: ServerProcess, form_image: Path) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        upload(browser, server, form_image)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        found = browser.execute_script(
            "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color];"
        )
        paper, ink = (sum(int(part) for part in one.strip("rgb()").split(",")) for one in found)
        assert (paper > 700 and ink < 150) if scheme == "light" else (paper < 100 and ink > 600)
        picture(browser, f"upload-{width}-{scheme}.png")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_routes_are_listed_without_the_network(browser: Any, server: ServerProcess) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(f"{server.address}/docs")
    WebDriverWait(browser, HANGS_S).until(lambda _: every(browser, "h2"))
    assert "POST /predict" in [one.text for one in every(browser, "h2")]
    assert "min_confidence" in find(browser, "main").text
    names = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(name.startswith((server.address, "data:")) for name in names)
    assert complaints(browser) == []
    picture(browser, "docs.png")
