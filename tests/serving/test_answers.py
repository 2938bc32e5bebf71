"""What a server answers: the fields that its model finds, whoever else asks, or one sentence for what is no page."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from layoutner.inference.model import Model, load_model
from tests.builders.mutations import mutated_bytes, mutated_values
from tests.builders.pages import lines, page
from tests.builders.pdfs import Sheet, text, write_pdf
from tests.builders.servers import ServerProcess, error_of, serving

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Model:
    return load_model(model_folder, device="cpu")


def words(count: int, seed: int = 0) -> dict[str, Any]:
    return page(f"page {seed}", [f"word{seed * index % 97}" for index in range(count)])


def post(server: ServerProcess, tree: Any, **query: str) -> Any:
    response = server.client.post("/predict", content=json.dumps(tree), headers=JSON, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def close_to(one: Any, other: Any) -> bool:
    """Whether two answers are equal, but for what a batch of another length does to the last digits."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1e-5
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close_to(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(close_to, one, other))
    return bool(one == other)


def test_a_page_as_json_gets_the_answer_of_the_model(server: ServerProcess, model: Model, tmp_path: Path) -> None:
    tree = words(300, 3)
    (tmp_path / "page.jsonl").write_text(lines(tree))
    (result,) = model.extract(tmp_path / "page.jsonl", normalisers={"TOTAL": "amount"})
    answer = post(server, tree)
    (labelled,) = answer.pop("pages")
    expected = result.to_dict()
    del expected["pages"]
    assert sum(map(len, expected["fields"].values())) > 10
    assert close_to(answer, expected)
    shown = result.pages[0].to_dict()
    assert close_to(labelled, {"page": 1, "name": shown.pop("document"), **shown})


def test_an_image_as_a_form_and_as_a_body(server: ServerProcess, model: Model, form_image: Path) -> None:
    form = server.client.post("/predict", files={"file": (form_image.name, form_image.read_bytes())})
    body = server.client.post("/predict", content=form_image.read_bytes(), params={"name": form_image.name})
    assert form.status_code == 200
    assert form.json() == body.json()
    assert form.json()["document"] == form_image.stem
    expected = model(form_image, normalisers={"TOTAL": "amount"})
    assert [word["text"] for word in form.json()["pages"][0]["words"]] == [word.text for word in expected.words]
    assert close_to(form.json()["fields"], expected.to_dict()["fields"])


def test_a_pdf_is_read_by_its_text_layer(server: ServerProcess, model: Model, tmp_path: Path) -> None:
    sheets = [
        Sheet(b"".join(text(72, 720 - 20 * line, f"Total {line} of {number}") for line in range(9)))
        for number in (1, 2)
    ]
    path = write_pdf(tmp_path / "invoice.pdf", *sheets)
    files = {"file": (path.name, path.read_bytes())}
    response = server.client.post("/predict", files=files, params={"previews": "true"})
    assert response.status_code == 200, response.text
    answer = response.json()
    expected = model(path, normalisers={"TOTAL": "amount"})
    assert [one["page"] for one in answer["pages"]] == [1, 2]
    assert [word["text"] for word in answer["pages"][1]["words"]] == ["Total", "0", "of", "2"] + [
        word for line in range(1, 9) for word in f"Total {line} of 2".split()
    ]
    assert answer["document"] == "invoice"
    assert close_to(answer["fields"], expected.to_dict()["fields"])
    assert all(one["preview"].startswith("data:image/webp") for one in answer["pages"])


def test_the_pages_of_a_tiff_are_one_document(server: ServerProcess, form_image: Path, tmp_path: Path) -> None:
    with Image.open(form_image) as image:
        image.save(tmp_path / "two.tif", save_all=True, append_images=[image], compression="tiff_deflate")
    response = server.client.post(
        "/predict",
        files={"file": ("../two pages.tif", (tmp_path / "two.tif").read_bytes())},
        params={"previews": "true"},
    )
    answer = response.json()
    assert response.status_code == 200
    assert answer["document"] == "two_pages"
    assert [one["page"] for one in answer["pages"]] == [1, 2]
    assert all(one["preview"].startswith("data:image/webp;base64,") for one in answer["pages"])
    assert all(one["words"] for one in answer["pages"])


def test_what_an_answer_has_is_chosen(server: ServerProcess) -> None:
    tree = [words(40, 1), words(40, 2)]
    whole = post(server, tree)
    assert {field["page"] for fields in whole["fields"].values() for field in fields} == {1, 2}
    short = post(server, tree, words="false", min_confidence="1")
    assert [one.keys() for one in short["pages"]] == [{"page", "name", "page_size"}] * 2
    found = [field for fields in short["fields"].values() for field in fields]
    assert len(found) == sum(map(len, whole["fields"].values()))
    assert all("words" not in field and "review" in field for field in found)


@pytest.mark.parametrize(
    ("body", "headers", "status", "part"),
    [
        (b"", {}, 400, "empty"),
        (b"words", {}, 415, "unknown kind"),
        (b"words", JSON, 400, "not JSON"),
        (b"[" * 100_000, JSON, 400, "not JSON"),
        (b"7", JSON, 400, "not a page"),
        (b"[]", JSON, 400, "not a page"),
        (b"{}", {}, 422, '"document" is None'),
        (lines(page("a", ["x"], image="/etc/passwd")).encode(), JSON, 422, "names an image"),
        (lines(page("a", ["x"], page_size=[0, 1])).encode(), JSON, 422, "a page of 0 x 1"),
        (json.dumps([page("a", ["x"])] * 4).encode(), JSON, 422, "more than 3 pages"),
        (b"\x89PNG\r\n\x1a\nrest", {}, 422, "document.png"),
        (b"--x\r\n", {"content-type": "multipart/form-data"}, 400, "form"),
        (b"--x--\r\n", {"content-type": "multipart/form-data; boundary=x"}, 400, "holds no file"),
        (b"nonsense", {"content-type": "multipart/form-data; boundary=x"}, 400, "form"),
        (b"x" * (2**20 + 1), {}, 413, "1 MiB"),
    ],
)
def test_errors_are_one_sentence(
    body: bytes, headers: dict[str, str], status: int, part: str, server: ServerProcess
) -> None:
    response = server.client.post("/predict", content=body, headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    assert part in error_of(response)


def test_a_body_without_a_length_is_counted_while_it_arrives(server: ServerProcess) -> None:
    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(400):
            sent += 2**16
            yield b" " * 2**16

    response = server.client.post("/predict", content=parts())
    assert response.status_code == 413
    assert error_of(response) == "the body is larger than 1 MiB, the most that this server takes"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/predict", 405),
        ("GET", "/pages/..%2fapp.py", 404),
        ("GET", "/pages/app.py", 404),
    ],
)
def test_other_routes_are_errors_as_json(method: str, path: str, status: int, server: ServerProcess) -> None:
    response = server.client.request(method, path)
    assert response.status_code == status
    error_of(response)


def test_a_wrong_query_is_malformed(server: ServerProcess) -> None:
    response = server.client.post("/predict?min_confidence=2", content=b"{}")
    assert response.status_code == 400
    assert error_of(response).startswith("min_confidence: ")


def test_eight_clients_get_the_answers_that_each_gets_alone(server: ServerProcess) -> None:
    trees = [words(30 + 40 * number, number) for number in range(8)]
    alone = [post(server, tree) for tree in trees]
    with ThreadPoolExecutor(8) as clients:
        together = list(clients.map(lambda tree: post(server, tree), trees * 5))
    assert all(map(close_to, together, alone * 5))


def test_a_bad_page_fails_only_its_own_request(server: ServerProcess) -> None:
    good, bad = json.dumps(words(50)), json.dumps(page("a", ["x"], page_size=["?", 1]))
    with ThreadPoolExecutor(8) as clients:
        responses = list(
            clients.map(lambda text: server.client.post("/predict", content=text, headers=JSON), [good, bad] * 12)
        )
    assert [response.status_code for response in responses] == [200, 422] * 12


def test_health_metrics_and_documentation(server: ServerProcess) -> None:
    assert server.client.get("/health").json() == {
        "status": "ok",
        "model": "layoutlm",
        "family": "layoutlm",
        "types": ["SENDER", "TOTAL"],
        "version": "0.1.0",
    }
    before = server.metrics()
    post(server, [words(10), words(20)])
    server.client.post("/predict", content=b"?")
    server.client.get("/a/b")
    after = server.metrics()
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown["layoutner_pages_total"] == 2
    assert grown["layoutner_words_total"] == 30
    assert grown["layoutner_batches_total"] == 1
    assert grown['layoutner_requests_total{route="/predict",status="200"}'] == 1
    assert grown['layoutner_requests_total{route="/predict",status="415"}'] == 1
    assert grown['layoutner_requests_total{route="other",status="404"}'] == 1
    assert grown["layoutner_request_seconds_count"] == grown['layoutner_request_seconds_bucket{le="+Inf"}'] == 2
    assert after["layoutner_requests_inside"] == after["layoutner_reading_queue"] == 0
    assert after["layoutner_resident_memory_bytes"] > 50e6
    api = server.client.get("/openapi.json").json()
    assert {"/predict", "/health", "/metrics", "/label-studio/predict"} <= api["paths"].keys()
    for name in ("/", "/docs", "/pages/page.css", "/pages/upload.js", "/pages/docs.js"):
        response = server.client.get(name)
        assert response.status_code == 200
        assert "://" not in response.text.replace("http://www.w3.org/2000/svg", "")
        assert "default-src 'none'" in response.headers["content-security-policy"]


def test_another_host_name_is_refused(server: ServerProcess) -> None:
    for host, status in (("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example", 403), ("", 403)):
        response = server.client.get("/health", headers={"host": host})
        assert response.status_code == status, host


def test_damaged_uploads_get_an_answer_or_an_error(server: ServerProcess, form_image: Path, tmp_path: Path) -> None:
    with Image.open(form_image) as image:
        small = image.resize((200, 260))
        small.save(tmp_path / "small.png")
        small.save(tmp_path / "two.tif", save_all=True, append_images=[small])
        small.convert("RGB").save(tmp_path / "small.jpg")
    write_pdf(tmp_path / "small.pdf", Sheet(text(72, 720, "Total 9.00")))
    bodies = [json.dumps(tree).encode("utf-8", "surrogatepass") for tree in mutated_values(words(6), 120, seed=1)]
    bodies += list(mutated_bytes(lines(words(6)).encode(), 60, seed=2))
    for name in ("small.png", "two.tif", "small.jpg", "small.pdf"):
        count = 60 if name == "small.pdf" else 15
        bodies += list(mutated_bytes((tmp_path / name).read_bytes(), count, seed=3))

    def send(body: bytes) -> int:
        response = server.client.post("/predict", content=body)
        if response.status_code != 200:
            error_of(response)
        return response.status_code

    with ThreadPoolExecutor(4) as clients:
        statuses = list(clients.map(send, bodies))
    assert set(statuses) <= {200, 400, 415, 422}
    assert {200, 422} <= set(statuses)
    assert server.metrics()["layoutner_reader_restarts_total"] == 0
    assert server.client.get("/health").status_code == 200
    left = [path for folder in server.temporary.glob("layoutner-serve-*") for path in folder.iterdir()]
    assert left == []


@pytest.mark.slow
def test_memory_stays_flat(model_folder: Path, form_image: Path, tmp_path: Path) -> None:
    """After 200 requests, 600 more take less than 5 % and 16 MiB more, in the server and its readers."""
    with serving(model_folder, tmp_path) as server, ThreadPoolExecutor(4) as clients:
        image = form_image.read_bytes()

        def send(number: int) -> None:
            body = image if number % 10 == 0 else json.dumps(words(20 + number % 200, number)).encode()
            assert server.client.post("/predict", content=body).status_code == 200

        list(clients.map(send, range(200)))
        before = server.metrics()
        list(clients.map(send, range(600)))
        after = server.metrics()
        for name in ("layoutner_resident_memory_bytes", "layoutner_readers_resident_memory_bytes"):
            assert after[name] < before[name] * 1.05 + 2**24, (name, before[name], after[name])
