"""Prediction as a stream: what comes in, what comes out, on any number of ranks, and what is left when it fails."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from layoutner.distributed.ranks import Ranks
from layoutner.documents.roles import read_documents
from layoutner.errors import DataError
from layoutner.files.image import PageImage
from layoutner.inference import labeller as labeller_module
from layoutner.inference.draw import LARGEST_SIDE, Drawings, draw
from layoutner.inference.input import guess_format
from layoutner.inference.labelled_page import label_page
from layoutner.inference.labeller import Labelled, Labeller
from layoutner.inference.output import Output, to_unilm
from layoutner.objectives.evaluate import WordPrediction
from layoutner.pages.document import Document
from layoutner.pages.page import Problem
from layoutner.planning.batch_plan import MicroBatchLimit
from layoutner.settings.data import DataSettings
from tests.builders import pdfs
from tests.builders.disk import SMALL_FILES
from tests.builders.families import make_export
from tests.builders.forks import BY_RANK, Forks, fork, fork_apart
from tests.builders.pages import LABELS, lines, page
from tests.builders.processes import HANGS_S, ROOT, call, free_port, launch

ALONE = Ranks(rank=0, size=1, device=torch.device("cpu"))
LAYOUTNER = Path(sys.executable).parent / "layoutner"


@pytest.fixture(scope="module")
def model(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model as `layoutner export` leaves one: it labels at random, and the same always."""
    return make_export(checkpoints["layoutlm"], tmp_path_factory.mktemp("models"), LABELS.tags)


def environment() -> dict[str, str]:
    """Of a process of its own: one thread, on the CPU."""
    return {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What comes out


def test_what_predict_writes_is_read_again(
    model: Path, forms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "forms").symlink_to(forms)
    out = tmp_path / "words.jsonl"
    form = tmp_path / "forms" / "testing_data" / "annotations" / "test-0000.json"
    assert call(capsys, "predict", form, "--model", model, "--output", out) == (0, "", "")
    (source,) = read_documents(DataSettings(), form, "test")
    (again,) = read_documents(DataSettings(format="jsonl"), out, "test")
    assert (again.name, again.words, again.boxes) == (source.name, source.words, source.boxes)
    assert (again.page_size, again.segments) == (source.page_size, source.segments)
    assert again.image == PageImage(form.parents[1] / "images" / "test-0000.png")  # a link in the folder is followed
    (written,) = map(json.loads, out.read_text().splitlines())
    assert again.tags == tuple(word["label"] for word in written["words"])
    # The image is named where a reader of the output's folder may open it, relative to that folder.
    inside = forms / "words.jsonl"
    assert call(capsys, "predict", form, "--model", model, "--output", inside)[0] == 0
    (again,) = read_documents(DataSettings(format="jsonl"), inside, "test")
    inside.unlink()
    assert again.image is not None
    assert again.image.path.resolve() == source.image.path.resolve() if source.image else False


def test_a_page_size_is_written_as_it_was_given_and_drawn_in_whole_pixels(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [[595.276, 841.89], [595, 842], [8.5, 11]]
    pages = [{**page(str(number), ["x"]), "page_size": size} for number, size in enumerate(sizes)]
    (tmp_path / "in.jsonl").write_text(lines(*pages))
    code, out, _ = call(capsys, "predict", tmp_path / "in.jsonl", "--model", model, "--draw", tmp_path / "drawn")
    assert code == 0
    assert [json.dumps(json.loads(line)["page_size"]) for line in out.splitlines()] == [json.dumps(s) for s in sizes]
    with Image.open(tmp_path / "drawn" / "0.png") as drawn:
        assert drawn.width == round(2 * 595.276)  # small pages are drawn larger


def test_entities_have_the_box_around_their_words() -> None:
    boxes = ((10, 20, 30, 40), (5, 25, 50, 35), (0, 0, 1, 1))
    document = Document("d", ("a", "b", "c"), boxes, None, (10, 10), None, (0, 0, 1))
    answers = [WordPrediction(1, 0.9), WordPrediction(2, 0.8), WordPrediction(0, 0.123456789)]
    made = label_page(document, answers, LABELS).to_dict()
    assert made["entities"] == [{"type": "SENDER", "text": "a b", "box": [5, 20, 50, 40], "words": [0, 2]}]
    assert made["words"][2] == {"text": "c", "box": [0, 0, 1, 1], "segment": 1, "label": "O", "probability": 0.123457}


def test_the_old_script_s_format_has_a_word_and_its_label_a_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text(lines(page("a", ["New\u2028 York", "x"]), page("b", ["y"])))
    code, out, _ = call(capsys, "predict", tmp_path / "in.jsonl", "--model", model, "--output-format", "unilm")
    _, told, _ = call(capsys, "predict", tmp_path / "in.jsonl", "--model", model)
    labels = [word["label"] for line in told.splitlines() for word in json.loads(line)["words"]]
    assert code == 0
    assert out == f"New {labels[0]}\nx {labels[1]}\n\ny {labels[2]}\n\n"
    assert to_unilm({"words": []}) == "\n"


# What comes in


def test_any_text_is_labelled(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [
        "🧾",
        "👩\u200d👩\u200d👧",
        "סך־הכול",
        "المجموع",
        "nul\0byte",
        "\u200b",
        "x" * 20_000,
        "\u202eevil",
        "a\u2028b\x85c",
    ]
    empty = page("empty", [])
    (tmp_path / "in.jsonl").write_text(lines(empty, page("odd", texts), page("long", ["total"] * 10_000)))
    code, out, err = call(capsys, "predict", tmp_path / "in.jsonl", "--model", model, "--draw", tmp_path / "drawn")
    assert (code, err) == (0, "")
    pages = [json.loads(line) for line in out.splitlines()]
    assert [len(one["words"]) for one in pages] == [0, len(texts), 10_000]
    assert [word["text"] for word in pages[1]["words"]] == texts
    assert pages[0]["entities"] == []
    assert all(word["label"] in LABELS.tags for one in pages for word in one["words"])
    assert left_behind(tmp_path / "drawn") == ["empty.png", "long.png", "odd.png"]


def test_an_input_without_a_page_is_an_error(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_text("\n")
    code, out, err = call(capsys, "predict", tmp_path / "in.jsonl", "--model", model)
    assert (code, out, "holds no document" in err) == (2, "", True)
    (tmp_path / "in.jsonl").write_text(lines(page("blank", [])))
    code, out, err = call(capsys, "evaluate", tmp_path / "in.jsonl", "--model", model)
    assert (code, out, "1 documents and not one word to score" in err) == (2, "", True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one INPUT, not none"),
        (["a", "--input", "b"], "give one INPUT, not two"),
        (["-", "--data.format", "funsd"], "standard input is always read as jsonl"),
        (["nowhere"], "--input nowhere: no such file or folder"),
        ([".", "--data.format", "docx"], "invalid choice: 'docx'"),
    ],
)
def test_a_mistake_in_the_options_is_found_at_once(
    arguments: list[str], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "predict", "--model", model, *arguments)
    assert (code, message in err) == (2, True)


def test_a_standard_input_that_is_empty_or_closed_is_said(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for stdin, what in ((TextIOWrapper(BytesIO()), "holds no document"), (None, "is closed")):
        message = f"standard input{':' if stdin else ''} {what}"
        monkeypatch.setattr(sys, "stdin", stdin)
        assert call(capsys, "predict", "-", "--model", model) == (2, "", f"layoutner: error: {message}\n")


def test_the_format_is_guessed_where_it_is_plain(tmp_path: Path) -> None:
    for name in (
        "scans/a.PNG",
        "scans/.DS_Store",
        "mixed/a.png",
        "mixed/a.txt",
        "in.jsonl",
        "a.jpg",
        "form.json",
        "all/a.png",
        "all/b.PDF",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    guesses = {
        name: guess_format(tmp_path / name) for name in ("scans", "mixed", "in.jsonl", "a.jpg", "form.json", "all")
    }
    assert guesses.pop("all") == guess_format(tmp_path / "all" / "b.PDF") == "pdf"
    assert guesses == {"scans": "ocr", "mixed": "funsd", "in.jsonl": "jsonl", "a.jpg": "ocr", "form.json": "funsd"}
    assert guess_format(Path("/dev/stdin")) == "jsonl"


def test_pages_of_a_pdf_are_predicted_and_drawn(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It needs no OCR engine, and what is written names the page of the PDF as the picture of its words."""
    sheets = [pdfs.Sheet(pdfs.text(72, 700, f"INVOICE {number}"), rotate=90 * number) for number in range(2)]
    file, out = pdfs.write_pdf(tmp_path / "invoice.pdf", *sheets), tmp_path / "words.jsonl"
    code, _, _ = call(capsys, "predict", file, "--model", model, "--output", out, "--draw", tmp_path / "drawn")
    assert code == 0
    first, second = read_documents(DataSettings(format="jsonl"), out, "test")
    assert (first.words, second.words) == (("INVOICE", "0"), ("INVOICE", "1"))
    assert (first.name, second.name) == ("invoice-1", "invoice-2")
    assert (first.group, second.group) == ("invoice", "invoice")
    assert (first.image, second.image) == (PageImage(file, 0), PageImage(file, 1))
    assert (first.page_size, second.page_size) == ((612, 792), (792, 612))
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 2


def test_an_image_is_read_by_ocr_or_says_what_is_missing(model: Path, forms: Path) -> None:
    image = forms / "testing_data" / "images" / "test-0000.png"
    done = fork(["layoutner", "predict", image, "--model", model], PATH="/nowhere")
    assert done.returncode == 2
    assert "tesseract" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# Ranks


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 pages, more than a chunk, of 0 to 29 words; a bad one in each chunk."""
    file = tmp_path_factory.mktemp("many") / "in.jsonl"
    pages: list[dict[str, Any] | str] = [page(f"p{n}", [f"w{n}-{m}" for m in range(n % 30)]) for n in range(300)]
    pages[17], pages[290] = "{", lines(page("off", ["x"])).replace("[0, 0, 9, 4]", "[0, 0, 9, 4000]")[:-1]
    file.write_text(lines(*pages))
    return file


def test_two_ranks_give_the_answers_of_one(model: Path, many: Path, tmp_path: Path) -> None:
    options = ["--model", str(model), "--data.bad_pages", "skip"]
    alone = fork(["layoutner", "predict", many, *options, "--output", tmp_path / "alone.jsonl"])
    assert alone.returncode == 0, alone.stderr
    left_out = [line for line in alone.stderr.splitlines() if line.startswith("left out: ")]
    assert [line.split(":")[1] for line in left_out] == [" in.jsonl line 18", " in.jsonl line 291"]
    assert "input: 2 page(s) left out" in alone.stderr
    pages = [json.loads(line) for line in (tmp_path / "alone.jsonl").read_text().splitlines()]
    assert [one["document"] for one in pages] == [f"p{n}" for n in range(300) if n not in (17, 290)]

    two = ["--nproc_per_node", 2, "--master_port", free_port(), "-m", "layoutner", "predict", "-", *options]
    done = run_with(many, ["torchrun", *two, "--output", tmp_path / "torchrun.jsonl"])
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("left out: ")] == [
        line.replace("in.jsonl", "stdin") for line in left_out
    ]
    assert (tmp_path / "torchrun.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


@pytest.mark.slow
def test_the_deepspeed_launcher_predicts_what_one_process_does(model: Path, many: Path, tmp_path: Path) -> None:
    options = ["--model", str(model), "--data.bad_pages", "skip"]
    alone = fork(["layoutner", "predict", many, *options, "--output", tmp_path / "alone.jsonl"])
    assert alone.returncode == 0, alone.stderr
    two = ["--num_gpus", 2, "--master_port", free_port(), "--module", "layoutner", "predict", "--input", many, *options]
    done = launch(["deepspeed", *two, "--output", tmp_path / "deepspeed.jsonl"])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "deepspeed.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def test_a_bad_page_stops_two_ranks(model: Path, many: Path, tmp_path: Path) -> None:
    done = fork(["layoutner", "predict", many, "--model", model, "--output", tmp_path / "out.jsonl"], ranks=2)
    assert done.returncode != 0
    assert "layoutner: error: 1 problem(s) in a page of" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("command", "lacks"),
    [("predict", "model"), ("predict", "model/layoutner.json"), ("evaluate", "model/layoutner.json")],
)
def test_what_one_rank_lacks_ends_both_with_one_message(
    command: str, lacks: str, model: Path, many: Path, tmp_path: Path
) -> None:
    """The same path, but on one machine nothing is behind it."""
    for rank in (0, 1):
        shutil.copytree(model, tmp_path / str(rank) / "model")
        shutil.copy(many, tmp_path / str(rank) / "in.jsonl")
    (tmp_path / "1" / lacks).rename(tmp_path / "gone")
    done = fork_apart(["-c", BY_RANK, tmp_path, command, "in.jsonl", "--model", "model", "--output", "out"])
    for rank, (code, out, err) in enumerate(done):
        (line,) = (line for line in err.splitlines() if line.startswith("layoutner: "))  # libraries may warn beside it
        assert (code, out, "Traceback" in err) == (2, "", False)
        assert line.startswith(f"layoutner: {'rank 1: ' if rank else ''}error: rank 1: ")
        assert lacks.partition("/")[0] in line
        assert not (tmp_path / str(rank) / "out").exists()


# Six seconds of silence are too many for the watchdog, and rank 1 takes eight for a forward.
PATIENCE = """
import sys, time
from layoutner.settings.tree import RunSettings
RunSettings.model_fields["rank_timeout"].default = 6.0
from layoutner.cli import main
from layoutner.inference.labeller import Labeller

def slow(labeller, batch, forward=Labeller._forward):
    time.sleep(8 if labeller.ranks.rank else 0)
    return forward(labeller, batch)

Labeller._forward = slow
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_two_ranks_wait_for_slow_work_and_not_for_a_dead_rank(killed: bool, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ["-c", PATIENCE, "predict", "-", "--model", model, "--output", out, "--batch", 128]
    os.mkfifo(tmp_path / "stdin")
    with Forks(arguments, 2, apart=True, stdin=tmp_path / "stdin") as ranks, (tmp_path / "stdin").open("w") as file:
        file.write(lines(*(page("p", ["x"]) for _ in range(256))))  # a chunk
        file.flush()
        partial = tmp_path / ".out.jsonl.partial"
        until = time.monotonic() + HANGS_S
        while not (partial.exists() and partial.stat().st_size) and time.monotonic() < until:
            time.sleep(0.05)
        if killed:
            ranks.kill(1)
            assert ranks.wait(together=False) == [1, -signal.SIGKILL]
            assert "layoutner: error: rank 0: lost rank 1 on host " in ranks.text(0)[1]
        else:
            time.sleep(9)  # nothing to read
            file.write(lines(page("last", ["x"])))
            file.close()
            assert ranks.wait() == [0, 0]
            assert [ranks.text(rank)[1] for rank in (0, 1)] == ["", ""]
            assert len(out.read_text().splitlines()) == 257


def run_with(stdin: Path, command: list[object]) -> subprocess.CompletedProcess[str]:
    tool, *arguments = map(str, command)
    with stdin.open() as file:
        return subprocess.run(
            [str(LAYOUTNER.with_name(tool)), *arguments],
            stdin=file, capture_output=True, text=True, timeout=HANGS_S, check=False, cwd=ROOT, env=environment(),
        )  # fmt: skip


MEASURED = """
import re, sys
from layoutner.cli import main
main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_input(model: Path, tmp_path: Path) -> None:
    peaks = {}
    for count in (300, 4000):
        file = tmp_path / f"{count}.jsonl"
        text = lines(page("p", ["total"] * 15))
        with file.open("w") as out:
            out.writelines(text for _ in range(count))
        done = fork(["-c", MEASURED, "predict", file, "--model", model, "--output", tmp_path / "out"])
        assert done.returncode == 0, done.stderr
        assert len((tmp_path / "out").read_text().splitlines()) == count
        peaks[count] = int(done.stderr) / 1024
    assert peaks[4000] - peaks[300] < 16  # MiB


# What is left when it fails


@pytest.mark.parametrize("bad", ["{", '{"document": "x"}', json.dumps(page("x", ["\ud800"]))])
def test_a_bad_page_stops_and_leaves_what_was_there(
    bad: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text(lines(page("a", ["x"]), bad))
    out = tmp_path / "out.jsonl"
    command = ["predict", tmp_path / "in.jsonl", "--model", model, "--output", out]
    code, told, err = call(capsys, *command)
    assert (code, told) == (2, "")
    assert err.count("error") == 1
    assert "in.jsonl line 2" in err
    assert left_behind(tmp_path) == ["in.jsonl"]
    out.write_text("of before")
    assert call(capsys, *command)[0] == 2
    assert out.read_text() == "of before"
    code, _, err = call(capsys, *command, "--data.bad_pages", "skip")
    assert (code, len(err.splitlines())) == (0, 2)
    assert [json.loads(line)["document"] for line in out.read_text().splitlines()] == ["a"]
    assert left_behind(tmp_path) == ["in.jsonl", "out.jsonl"]


def test_boxes_are_repaired_as_asked_and_counted(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = page("a", ["x", "y"])
    broken["words"][1]["box"] = [0, 0, 5, 1200]
    (tmp_path / "in.jsonl").write_text(lines(broken))
    command = ["predict", tmp_path / "in.jsonl", "--model", model, "--data.invalid_boxes"]
    code, out, err = call(capsys, *command, "clamp")
    assert (code, err) == (0, "input: 1 box(es) clamped, box off the page (data.invalid_boxes = clamp)\n")
    assert json.loads(out)["words"][1]["box"] == [0, 0, 5, 1000]
    code, out, _ = call(capsys, *command, "drop")
    assert (code, [word["text"] for word in json.loads(out)["words"]]) == (0, ["x"])


def test_an_interrupt_leaves_what_was_there(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("of before")
    os.mkfifo(tmp_path / "stdin")
    command = ["layoutner", "predict", "-", "--model", model, "--output", out]
    with Forks(command, stdin=tmp_path / "stdin") as process, (tmp_path / "stdin").open("w") as file:
        file.write(lines(*(page("p", ["x"]) for _ in range(256))))  # a chunk; the next one never comes
        file.flush()
        partial = tmp_path / ".out.jsonl.partial"
        end = time.monotonic() + HANGS_S
        while not (partial.exists() and partial.stat().st_size) and time.monotonic() < end:
            time.sleep(0.02)
        assert len(partial.read_text().splitlines()) == 256
        process.kill(0, signal.SIGINT)
        assert process.wait() == [130]
        assert process.text()[1] == "layoutner: interrupted\n"
    assert out.read_text() == "of before"
    assert left_behind(tmp_path) == ["out.jsonl", "stdin"]


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=HANGS_S, check=False, cwd=ROOT, env=environment()
    )


TO_FULL = """
import os, sys
from layoutner.cli import main
os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
main(sys.argv[1:])
"""


def test_a_full_disk_is_said_and_leaves_nothing(model: Path, many: Path, tmp_path: Path) -> None:
    predict = ["predict", many, "--model", model, "--data.bad_pages", "skip"]
    done = fork(["-c", SMALL_FILES, 8 * 1024, *predict, "--output", tmp_path / "out.jsonl"])
    assert done.stderr.splitlines()[-1] == (
        f"layoutner: error: {tmp_path / 'out.jsonl'}: cannot be written: [Errno 27] File too large"
    )
    assert left_behind(tmp_path) == []
    done = fork(["-c", TO_FULL, *predict])
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "layoutner: error: standard output: cannot be written: [Errno 28] No space left on device"
    )


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_it_quietly(model: Path, many: Path) -> None:
    done = shell(
        f"{LAYOUTNER} predict {many} --model {model} --data.bad_pages skip | head -c 9; exit ${{PIPESTATUS[0]}}"
    )
    assert done.stdout == '{"documen'
    assert re.sub("left out: .*\n", "", done.stderr) == ""
    assert done.returncode == 141


def test_what_is_no_file_is_written_to_and_not_replaced(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text(lines(page("a", ["x"])))
    assert call(capsys, "predict", tmp_path / "in.jsonl", "--model", model, "--output", "/dev/null")[0] == 0
    assert Path("/dev/null").is_char_device()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert call(capsys, "predict", tmp_path / "in.jsonl", "--model", model, "--output", tmp_path / "link")[0] == 0
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "target").read_text())["document"] == "a"


def test_an_output_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    output = Output(tmp_path / "new" / "out")
    output.open()
    output.write("half \ud800")
    assert not (tmp_path / "new" / "out").exists()
    output.finish()
    output.discard()
    assert (tmp_path / "new" / "out").read_bytes() == b"half \\ud800"
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        Output(tmp_path / "file" / "out").open()


# Page images that the network takes


class Pages:
    """Stands for the page images of a network that sees them: a file that says "good" is one."""

    def pixels(self, images: list[PageImage]) -> None:
        for image in images:
            if not image.path.is_file():
                raise DataError(f"page image {image.path}: gone")


def test_pages_without_the_image_a_network_takes_are_left_out_or_stop(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labeller = Labeller(model, ALONE)
    monkeypatch.setattr(labeller, "image_processor", Pages())
    monkeypatch.setattr(labeller, "_forward", lambda inputs: torch.zeros(*inputs["input_ids"].shape, len(LABELS.tags)))
    monkeypatch.setattr(labeller_module, "CHUNK_PAGES", 2)
    (tmp_path / "there.png").touch()
    there, gone = PageImage(tmp_path / "there.png"), PageImage(tmp_path / "gone.png")
    images = [there, gone, None, there]
    documents = [Document(f"d{n}", ("x",), ((0, 0, 1, 1),), ("O",), (9, 9), image) for n, image in enumerate(images)]
    taken: list[str] = []
    lost: list[Problem] = []

    def take(labelled: Labelled) -> None:
        taken.extend(document.name for document, _ in labelled)

    labeller.label(iter(documents), MicroBatchLimit(8), take, lost.extend)
    assert taken == ["d0", "d3"]
    assert [str(problem) for problem in lost] == [
        f"d1: page image {tmp_path / 'gone.png'}: gone",
        "d2: has no page image",
    ]
    assert labeller.evaluate(documents, "test", MicroBatchLimit(8), lost.extend).counts["documents"] == 2
    with pytest.raises(DataError, match=r"1 document\(s\) have no page image, which the model needs: d1: page"):
        labeller.label(documents, MicroBatchLimit(8), take)


def test_documents_are_read_chunk_by_chunk(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labeller_module, "CHUNK_PAGES", 3)
    monkeypatch.setattr(labeller_module, "CHUNK_WORDS", 10)
    read = 0

    def documents() -> Iterator[Document]:
        nonlocal read
        for count in (1, 1, 1, 1, 20, 1, 1):
            read += 1
            yield Document(f"d{read}", ("x",) * count, ((0, 0, 1, 1),) * count, None, (9, 9))

    chunks: list[tuple[int, int]] = []
    Labeller(model, ALONE).label(documents(), MicroBatchLimit(8), lambda labelled: chunks.append((len(labelled), read)))
    assert chunks == [(3, 3), (2, 5), (2, 7)]


# Drawings


def drawable(name: str, size: tuple[int, int] = (90, 60)) -> dict[str, Any]:
    return {"document": name, "page_size": list(size), "words": [{"text": "x", "box": [0, 0, 9, 9]}], "entities": []}


def test_drawings_stay_in_their_folder_each_in_its_own_file(tmp_path: Path) -> None:
    names = [
        "../../x",
        "/etc/passwd",
        "a/b",
        "a_b",
        "A_b",
        "nul\0",
        "..",
        "",
        "é" * 300,
        "é" * 299,
        "\ud800",
        ".hid",
        "x~2",
    ]
    drawings = Drawings(tmp_path / "drawn", ("A",))
    made = [drawings.add(drawable(name), None).name for name in [*names, "x", "x"]]
    assert made[:8] == [
        "_.._x.png",
        "_etc_passwd.png",
        "a_b.png",
        "a_b~2.png",
        "A_b~3.png",
        "nul_.png",
        "page.png",
        "page~2.png",
    ]
    assert made[8:10] == ["é" * 100 + ".png", "é" * 100 + "~2.png"]
    assert made[10:] == ["_.png", "hid.png", "x_2.png", "x.png", "x~2.png"]
    assert left_behind(tmp_path / "drawn") == sorted(made)
    assert left_behind(tmp_path) == ["drawn"]
    with pytest.raises(DataError, match="cannot create this folder"):
        Drawings(tmp_path / "drawn" / "x.png", ("A",))


def red(picture: Image.Image) -> bool:
    return any(colour == (255, 0, 0) for _, colour in picture.getcolors(2**24) or [])


def test_a_page_whose_image_cannot_be_read_is_drawn_on_white_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    draw(drawable("torn"), PageImage(tmp_path / "torn.png"), ("A",), tmp_path / "noted.png")
    draw(drawable("none"), None, ("A",), tmp_path / "plain.png")
    with Image.open(tmp_path / "noted.png") as noted, Image.open(tmp_path / "plain.png") as plain:
        assert noted.size == (990, 660 + 48)
        assert plain.size == (990, 660 + 24)
        assert (red(noted), red(plain)) == (True, False)
        assert noted.crop((0, 0, 990, 660)).tobytes() == plain.crop((0, 0, 990, 660)).tobytes()


def test_a_picture_fits_its_page_and_a_vast_page_is_drawn_smaller(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), "blue").save(tmp_path / "small.png")
    draw(drawable("small"), PageImage(tmp_path / "small.png"), ("A",), tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as out:
        assert out.getpixel((989, 659)) == (0, 0, 255)
    draw(drawable("vast", (10**8, 10**6)), None, ("A",), tmp_path / "vast.png")
    with Image.open(tmp_path / "vast.png") as out:
        assert out.size[0] == LARGEST_SIDE
        assert out.size[1] < 200
