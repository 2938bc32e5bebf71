"""A thousand damaged inputs of every format through the commands: each ends in a result, or in one error that names it.

No traceback, no hang, no warning of a library, and nothing under the name of the output unless it is whole.
"""

import json
import random
import shutil
import signal
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from types import FrameType

import pytest
from PIL import Image

from layoutner.cli import main
from layoutner.pages.page import Page
from layoutner.readers import READERS
from tests.builders import jsonl
from tests.builders.families import make_export
from tests.builders.inputs import MAKERS, Case, image_input, png, sroie_input, unilm_input
from tests.builders.mutations import mutated_bytes, mutated_values
from tests.builders.processes import HANGS_S, free_port, launch

TAGS = ["O", "B-KEY", "I-KEY"]
COUNTS = {
    "funsd": 220,
    "image": 180,
    "unilm": 120,
    "sroie": 120,
    "cord": 100,
    "xfund": 90,
    "jsonl": 100,
    "hub": 40,
    "ocr": 30,
}

PREDICTED = {"image": 3, "ocr": 3}  # one in so many is predicted, of the other kinds one in ten; the rest is checked


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that OCR reads here is kept."""
    monkeypatch.setenv("LAYOUTNER_OCR__CACHE", "off")


@pytest.fixture(scope="module")
def models(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model that reads text alone, and one that looks at page images."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "text": make_export(checkpoints["layoutlm"], folder, TAGS),
        "pages": make_export(checkpoints["layoutlmv3"], folder, TAGS, images="use"),
    }


# Sound inputs


# Damage


def bomb(width: int, height: int) -> bytes:
    """A PNG whose sound header promises more pixels than there are bytes."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (header, body)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def damaged_images(count: int, seed: int) -> Iterator[bytes]:
    """Bombs, files of other kinds under the name of a PNG, and mutated images of the kinds that are read."""
    rng = random.Random(seed)
    sides = (0, 1, 90, 20_000, 60_000, 2**31 - 1)
    others = [b"", b"\0" * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"GIF89a", b"{}"]
    made = [bomb(rng.choice(sides), rng.choice(sides)) for _ in range(count // 6)] + others
    yield from made
    sound = []
    for kind in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"):
        content = BytesIO()
        Image.effect_noise((90, 60), 60).save(content, kind)
        sound.append(content.getvalue())
    for number in range(count - len(made)):
        yield next(mutated_bytes(sound[number % len(sound)], 1, rng.randrange(10**9)))


def damaged(case: Case, count: int, seed: int) -> Iterator[tuple[Path, bytes]]:
    """(file, what it holds now); every other one of a JSON file is still JSON."""
    if case.files[0].suffix == ".png":
        yield from ((case.files[0], content) for content in damaged_images(count, seed))
        return
    whole = {file: file.read_bytes() for file in case.files}
    for number in range(count):
        file = case.files[number % len(case.files)]
        if file.suffix in (".json", ".jsonl") and number // len(case.files) % 2:
            value = next(mutated_values(json.loads(whole[file]), 1, seed + number))
            yield file, json.dumps(value).encode() + b"\n"
        else:
            yield file, next(mutated_bytes(whole[file], 1, seed + number))


# Ends


def too_long(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"more than {HANGS_S} s")


def call(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """`layoutner ...` in this process: (exit code, standard output, standard error); other exceptions go on."""
    code = 0
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(int(HANGS_S))
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return code, *capfd.readouterr()


def end_of_check(capfd: pytest.CaptureFixture[str], case: Case, format: str, names: list[str]) -> str:
    code, out, err = call(capfd, "data", "check", case.path, "--data.format", format)
    if code == 2:
        assert out == ""
        assert_one_error(err, names)
        return "refused"
    assert (code, err) in ((0, ""), (1, ""))
    assert out.startswith(f"{case.path}: {format}\n")
    assert ("\nerror: " in out) == (code == 1)
    if code == 1:
        assert any(name in out for name in names)
    return "problem" if code else "sound"


def end_of_predict(capfd: pytest.CaptureFixture[str], case: Case, format: str, names: list[str], model: Path) -> str:
    output = case.path.parent / "predicted"
    code, out, err = call(
        capfd, "predict", case.path, "--data.format", format, "--model", model, "--split", "train", "--output", output
    )
    assert out == ""
    left = [file.name for file in output.parent.iterdir() if "predicted" in file.name]
    if code:
        assert (code, left) == (2, [])
        assert_one_error(err, names)
        return "refused"
    assert left == ["predicted"]
    pages = [json.loads(line) for line in output.read_text().splitlines()]
    output.unlink()
    assert all(word["label"] in TAGS for page in pages for word in page["words"])
    assert all(0 <= side <= 1000 for page in pages for word in page["words"] for side in word["box"])
    return "labelled"


def assert_one_error(err: str, names: list[str]) -> None:
    """One error; where it has several lines they are a heading and its list."""
    first, *others = err.splitlines()
    assert first.startswith("layoutner: error: ")
    assert all(line.startswith("  ") for line in others), err
    assert any(name in err for name in names), err
    assert err.replace("\n", "").isprintable(), err
    assert len(first) < 2000


def test_there_are_a_thousand() -> None:
    assert sum(COUNTS.values()) == 1000


@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("part", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_each_ends_in_a_result_or_one_error(
    part: int,
    kind: str,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    (tmp_path / "data").mkdir()
    case = MAKERS[kind](tmp_path / "data")
    format = "funsd" if kind == "image" else kind
    names = ["f.json", "f.png"] if kind == "image" else [file.name for file in case.files]
    whole = {file: file.read_bytes() for file in case.files}
    model = models["pages" if kind == "image" else "text"]
    capfd.readouterr()
    assert end_of_check(capfd, case, format, names) == "sound"
    assert end_of_predict(capfd, case, format, names, model) == "labelled"
    ends: dict[str, int] = {}
    number = slowest = 0
    for number, (file, content) in enumerate(islice(damaged(case, COUNTS[kind], seed=11), 0, None, part), 1):
        file.write_bytes(content)
        start = time.monotonic()
        if number % PREDICTED.get(kind, 10):
            end = end_of_check(capfd, case, format, names)
        else:
            end = end_of_predict(capfd, case, format, names, model)
        slowest = max(slowest, time.monotonic() - start)
        ends[end] = ends.get(end, 0) + 1
        file.write_bytes(whole[file])
    count = -(-COUNTS[kind] // part)
    assert number == count
    print(kind, ends, f"{slowest:.2f} s")
    assert sum(ends.get(end, 0) for end in ("sound", "labelled")) > count // 20, ends
    assert sum(ends.get(end, 0) for end in ("refused", "problem")) >= count // 4, ends


# Inputs that are whole, and hostile


def test_a_decompression_bomb_is_named_and_not_unpacked(
    models: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case = image_input(tmp_path)
    case.files[0].write_bytes(bomb(60_000, 60_000))
    # Its header is all that a check and a model of text alone need.
    assert call(capfd, "data", "check", tmp_path)[0] == 0
    assert call(capfd, "predict", tmp_path, "--model", models["text"])[0] == 0
    code, out, err = call(capfd, "predict", tmp_path, "--model", models["pages"])
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    said = (
        "f.png: 60000 x 60000 pixels of mode RGB take 13,733 MiB of memory once unpacked, more than data.max_image_mib"
    )
    assert said in err
    # EPS is no page image either: for it Pillow would start another program.
    case.files[0].write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 60\n%%EndComments\n")
    assert "cannot identify image file" in call(capfd, "predict", tmp_path, "--model", models["pages"])[2]


@pytest.mark.parametrize(
    ("format", "name", "message"),
    [
        ("funsd", "annotations/f.json", "f.json: cannot be read: its 104,857,600 bytes are more than 67,108,864"),
        ("cord", "json/f.json", "f.json: cannot be read: its 104,857,600 bytes are more than 67,108,864"),
        ("sroie", "entities/f.json", "f.json: cannot be read: its 104,857,600 bytes are more than 65,536"),
        ("xfund", "zh.train.json", "zh.train.json: not JSON: "),
        ("jsonl", "f.jsonl", "f.jsonl line 1: longer than 64 MiB; expected one document per line"),
    ],
)
def test_a_json_of_100_mib_is_named(
    format: str, name: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = MAKERS[format](tmp_path).path
    (tmp_path / name).write_bytes(b"[1," * (100 * 2**20 // 3) + b"\n")
    code, out, err = call(capfd, "data", "check", path, "--data.format", format)
    assert (code, err, out.count(message)) == (1, "", 1)


def test_an_image_outside_the_folder_is_not_opened(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "data" / "link").symlink_to(tmp_path / "data")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link/../../secret.png"):
        file = jsonl.write(tmp_path / "data" / "f.jsonl", jsonl.page(image=name))
        code, out, _ = call(capfd, "data", "check", file, "--data.format", "jsonl")
        assert (code, f"f.jsonl line 1: '{name}' leads out of {tmp_path / 'data'}" in out) == (1, True)
    # In unilm an image is a name and nothing more.
    case = unilm_input(tmp_path / "data")
    case.files[2].write_text(case.files[2].read_text().replace("p0.png", "../secret.png"))
    (tmp_path / "secret.png").write_text("no image")
    assert call(capfd, "data", "check", case.path, "--data.format", "unilm")[0] == 0


def test_a_hostile_receipt_of_the_largest_size_takes_no_minute(tmp_path: Path) -> None:
    sroie_input(tmp_path)
    values = {"company": "x" * 40, "date": "1", "address": "y" * 90, "total": "1.00"}
    (tmp_path / "entities" / "f.json").write_text(json.dumps(values))
    for text in ("1.00", "total sub-total 1", "1," * 30_000, "total" + "-" * 30_000, "xy" * 30_000):
        line = f"0,0,9,0,9,9,0,9,{text}\n"
        (tmp_path / "box" / "f.csv").write_text(line * (2**16 // len(line)))
        start = time.process_time()
        (found,) = READERS["sroie"](tmp_path, "train")
        assert isinstance(found, Page)
        assert time.process_time() - start < 10  # it took 43 s, and minutes, when 1 MiB was read


@pytest.mark.slow
def test_a_torn_page_image_stops_all_ranks_before_the_first_step(
    checkpoints: dict[str, Path], forms: Path, tmp_path: Path, train_arguments: Callable[..., list[str]]
) -> None:
    shutil.copytree(forms, tmp_path / "forms")
    for number in (3, 4):  # one of each rank
        torn = tmp_path / "forms" / "training_data" / "images" / f"train-000{number}.png"
        torn.write_bytes(torn.read_bytes()[:-500])
    arguments = train_arguments(tmp_path / "run", family="layoutlmv3", data__train=tmp_path / "forms")
    ranks = ["--nproc_per_node", 2, "--master_port", free_port(), "--redirects", 3, "--log_dir", tmp_path / "logs"]
    done = launch(["torchrun", *ranks, "-m", "layoutner", "train", *arguments])
    assert done.returncode != 0
    first, second = (next(tmp_path.glob(f"logs/*/attempt_0/{rank}/stderr.log")).read_text() for rank in (0, 1))
    lines = first.splitlines()
    assert lines[0] == "layoutner: error: 2 of 24 documents have a page image that cannot be read:"
    assert [line.partition(": page image ")[0] for line in lines[1:]] == ["  - train-0003", "  - train-0004"]
    assert second == f"layoutner: rank 1: {lines[0].removeprefix('layoutner: ')}\n"
    assert not (tmp_path / "run").exists()
