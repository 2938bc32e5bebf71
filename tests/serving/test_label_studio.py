"""The routes of Label Studio's ML backend, and which files its tasks may name."""

import base64
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layoutner.errors import SettingsError
from layoutner.serving.refusal import Refused
from layoutner.serving.task_files import TaskFiles
from tests.builders.processes import HANGS_S
from tests.builders.servers import ServerProcess, error_of, serving

ONE_TAG = """<View><Image name="page" value="$ocr"/><RectangleLabels name="bbox" toName="page">
<Label value="TOTAL" background="green"/><Label value="SENDER"/></RectangleLabels></View>"""
THREE_TAGS = """<View><Image name="image" value="$ocr"/><Labels name="label" toName="image">
<Label value="TOTAL"/></Labels><Rectangle name="bbox" toName="image"/>
<TextArea name="transcription" toName="image" perRegion="true"/></View>"""


@pytest.fixture(scope="module")
def folder(form_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of documents, and a secret next to it."""
    made = tmp_path_factory.mktemp("label-studio") / "documents"
    (made / "1").mkdir(parents=True)
    (made / "1" / "a form.png").write_bytes(form_image.read_bytes())
    (made / "words.txt").write_text("words")
    (made.parent / "secret.png").write_bytes(form_image.read_bytes())
    return made


@pytest.fixture(scope="module")
def studio(model_folder: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(model_folder, tmp_path_factory.mktemp("temporary"), "--documents", folder) as running:
        yield running


def ask(server: ServerProcess, config: str, *references: object) -> Any:
    tasks = [{"id": number, "data": {"ocr": one}} for number, one in enumerate(references)]
    # As Label Studio sends it, with keys that are not used.
    body = {"tasks": tasks, "project": "3.17", "label_config": config, "params": {"login": None, "context": None}}
    response = server.client.post("/label-studio/predict", json=body)
    assert response.status_code == 200, response.text
    return response.json()["results"]


def test_regions_are_the_entities_in_percent(studio: ServerProcess, folder: Path) -> None:
    content = (folder / "1" / "a form.png").read_bytes()
    answer = studio.client.post("/predict", content=content).json()
    (shown,) = answer["pages"]
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    found = ask(studio, ONE_TAG, "/data/local-files/?d=1/a%20form.png", uri, "/data/upload/1/a%20form.png")
    assert found[0]["result"] == found[1]["result"] == found[2]["result"]
    regions = found[0]["result"]
    assert len(regions) >= len(shown["entities"]) > 0
    entities = [shown["entities"][int(region["id"].split("-")[1])] for region in regions]
    for region, entity in zip(regions, entities, strict=True):
        x0, y0, x1, y1 = (side / 10 for side in entity["box"])
        value = region["value"]
        assert (region["from_name"], region["to_name"], region["type"]) == ("bbox", "page", "rectanglelabels")
        assert [region["original_width"], region["original_height"]] == shown["page_size"]
        assert value["rectanglelabels"] == [entity["type"]]
        assert x0 <= value["x"] < value["x"] + value["width"] <= x1 + 1e-6
        assert y0 <= value["y"] < value["y"] + value["height"] <= y1 + 1e-6
        assert 0 < region["score"] <= 1
    probabilities = [word["probability"] for word in shown["words"]]
    assert found[0]["score"] == pytest.approx(sum(probabilities) / len(probabilities), abs=1e-5)
    assert found[0]["model_version"] == "layoutlm"


def test_an_interface_of_three_tags_gets_three_parts_a_region(studio: ServerProcess) -> None:
    (found,) = ask(studio, THREE_TAGS, "1/a form.png")
    regions = found["result"]
    assert [one["type"] for one in regions[:3]] == ["rectangle", "labels", "textarea"]
    assert [one["from_name"] for one in regions[:3]] == ["bbox", "label", "transcription"]
    assert len({one["id"] for one in regions}) * 3 == len(regions)
    assert {label for one in regions for label in one["value"].get("labels", ())} == {"TOTAL"}  # no other is offered


def test_a_task_that_fails_fails_alone(studio: ServerProcess) -> None:
    references = ("1/a form.png", "../secret.png", "/etc/passwd", "words.txt", "missing.png", 7, "http://127.0.0.1:1/x")
    found = ask(studio, ONE_TAG, *references)
    assert found[0]["result"]
    assert all(one["result"] == [] and one["score"] == 0 for one in found[1:])
    assert [one.get("error", "").partition(":")[0] for one in found] == [
        "",
        "../secret.png",
        "/etc/passwd",
        "the file is of an unknown kind; expected a PDF, an image (PNG, JPEG, TIFF, BMP, GIF, WebP, PPM, JPEG 2000) "
        "or the JSON of a page",
        "missing.png",
        "the task's data has no text with an image under the key that the interface names",
        "http",
    ]


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        ("{", 400, "not JSON"),
        ("[]", 400, "tasks is missing"),
        ('{"tasks": [{}]}', 400, "tasks is missing"),
        ('{"tasks": []}', 400, "label_config is missing"),
        ('{"tasks": [], "label_config": "<View>"}', 400, "not XML"),
        ('{"tasks": [], "label_config": "<!DOCTYPE x [<!ENTITY a \'b\'>]><View>&a;</View>"}', 400, "document type"),
        ('{"tasks": [], "label_config": "<View><Image name=\'i\' value=\'$i\'/></View>"}', 422, "RectangleLabels"),
    ],
)
def test_what_label_studio_would_not_send(body: str, status: int, part: str, studio: ServerProcess) -> None:
    response = studio.client.post("/label-studio/predict", content=body)
    assert response.status_code == status
    assert part in error_of(response)


def test_setup_and_health(studio: ServerProcess) -> None:
    setup = {"project": "1.2", "schema": ONE_TAG, "hostname": "http://localhost:8080", "access_token": "secret"}
    assert studio.client.post("/label-studio/setup", json=setup).json() == {"model_version": "layoutlm"}
    assert studio.client.get("/label-studio/health").json()["status"] == "UP"


@pytest.fixture
def site() -> Iterator[str]:
    """A web server with a small file, a large one, a slow one, and one that is elsewhere; returns its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            moved = self.path.endswith("moved")
            self.send_response(302 if moved else 200)
            if moved:
                self.send_header("Location", "/secret")
            self.end_headers()
            try:
                for _ in range(2000 if self.path.endswith("slow") else 0):
                    self.wfile.write(b"x")
                    time.sleep(0.01)
                self.wfile.write(b"x" * (10_000 if self.path.endswith("large") else 9))
            except OSError:
                pass

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def test_only_allowed_addresses_are_asked(site: str) -> None:
    files = TaskFiles(None, (f"{site}images/",))
    files.require()

    def status(reference: str, seconds: float = HANGS_S) -> int:
        with pytest.raises(Refused) as refused:
            files.read(reference, 1000, time.monotonic() + seconds)
        return refused.value.status

    assert files.read(f"{site}images/small", 1000, time.monotonic() + HANGS_S) == b"x" * 9
    for name in ("secret", "images/../secret", "images/%2e%2e/secret", "images/..\\secret"):
        assert status(site + name) == 403
    assert status("file:///etc/passwd") == 403
    assert status("ftp://127.0.0.1/x") == 403
    assert status(f"{site}images/large") == 413
    assert status(f"{site}images/moved") == 422
    assert status(f"{site}images/slow", 0.3) == 504
    assert status("data:image/png,plain") == 422
    assert status("data:image/png;base64,!") == 422
    assert status("any/file") == 403


@pytest.mark.parametrize("prefix", ["https://host", "host/", "ftp://host/", "http://user@host/", "http:///", ""])
def test_a_prefix_names_a_whole_host(prefix: str) -> None:
    with pytest.raises(SettingsError, match="--allow-url"):
        TaskFiles(None, (prefix,)).require()


def test_errors_of_tasks_name_no_folder_of_the_server(studio: ServerProcess, folder: Path) -> None:
    found = ask(studio, ONE_TAG, f"{folder}/missing.png", f"{folder.parent}/secret.png", "a\0b", "1")
    text = json.dumps([one["error"].replace(f"{folder.parent}/secret.png", "") for one in found])
    assert str(folder) not in text
