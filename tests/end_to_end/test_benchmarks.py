"""The benchmarks measure, and report what they measured."""

import json
import random
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from layoutner.backends.onnx_export import write_onnx
from layoutner.models.preprocessing import PREPROCESSING_FILE, Preprocessing
from tests.builders import jsonl
from tests.builders.families import make_export
from tests.builders.processes import ROOT, launch

CONTENDERS = {"layoutner", "hf", "hf-grouped", "accelerate", "script", "limit"}


@pytest.mark.slow
def test_every_contender_is_measured_once(forms: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    command = ["python", ROOT / "benchmarks" / "speed.py", forms, tmp_path, "--model", checkpoints["layoutlm"]]
    command += ["--length", 256]
    command += ["--batches", 4, "--ranks", 1, 2, "--rounds", 1, "--steps", 1]
    done = launch(command, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "measured.jsonl").read_text().splitlines()]
    assert {row["contender"] for row in rows if row["ranks"] == 1} == CONTENDERS
    assert {row["contender"] for row in rows if row["ranks"] == 2} == {"layoutner", "script", "limit"}
    assert len(rows) == 6 + 3
    assert all(row["tokens_per_s"] > 0 and row["peak_gib"] > 0 for row in rows)
    # A second call measures nothing again.
    again = launch(command, timeout=900)
    assert again.returncode == 0, again.stderr[-3000:]
    assert [json.loads(line) for line in (tmp_path / "measured.jsonl").read_text().splitlines()] == rows
    report = (tmp_path / "report.md").read_text()
    assert (report.count("\n| 4 | 1 |"), report.count("\n| 4 | 2 |")) == (6, 3)
    assert "no hf, hf-grouped, accelerate on more ranks" in report
    picture = ElementTree.parse(tmp_path / "report.svg")
    bars = [float(bar.get("width", 0)) for bar in picture.iter("{http://www.w3.org/2000/svg}rect")]
    speeds = [row["tokens_per_s"] for row in json.loads((tmp_path / "report.json").read_text())["table"]]
    assert bars == pytest.approx([420 * speed / max(speeds) for speed in speeds], abs=0.1)


@pytest.mark.slow
def test_evaluation_and_start_are_measured_beside_what_they_need(forms: Path, checkpoints: dict[str, Path]) -> None:
    command = ["python", ROOT / "benchmarks" / "evaluation.py", forms, "--rounds", 1, "--length", 256]
    command += ["--model", checkpoints["layoutlm"]]
    done = launch(command, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    for what in ("evaluation / bare forwards", "start of a run / bare imports"):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{what}: ")]
        ratio, *_, first, second = map(float, re.findall(r"[\d.e-]+(?= |;|\)| s)", line.partition(": ")[2]))
        assert ratio == pytest.approx(first / second, rel=0.02)


@pytest.mark.slow
def test_ways_to_a_confidence_are_compared(forms: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = make_export(checkpoints["layoutlm"], tmp_path, ["O", "B-DUE", "I-DUE", "B-ITEM", "I-ITEM"])
    done = launch(["python", ROOT / "benchmarks" / "confidence.py", model, forms])
    assert done.returncode == 0, done.stderr[-3000:]
    first, _, *rows = done.stdout.splitlines()
    assert re.match(r"\d+ entities, 0\.\d+ of them right", first)
    mean = {row[:24].strip(): float(row[24:].split()[0]) for row in rows}
    assert len(mean) == 8
    assert mean["product around"] < mean["product"] < mean["minimum"] < mean["geometric mean"] < mean["arithmetic mean"]


@pytest.mark.slow
def test_torch_and_onnx_label_the_same(forms: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = make_export(checkpoints["layoutlm"], tmp_path / "torch", ["O", "B-DUE", "I-DUE", "B-ITEM", "I-ITEM"])
    graph = Path(shutil.copytree(model, tmp_path / "onnx", ignore=shutil.ignore_patterns("model.safetensors")))
    preprocessing, _ = write_onnx(model, Preprocessing.read(model / PREPROCESSING_FILE), graph)
    preprocessing.write(graph / PREPROCESSING_FILE)
    done = launch(["python", ROOT / "benchmarks" / "backends.py", model, graph, forms, "--documents", 3, "--rounds", 1])
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.findall(r"^(\w+): [\d.]+ pages/s", done.stdout, re.MULTILINE) == ["torch", "onnx"]
    assert re.search(r"^\d+ words: 0 labels differ", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_server_is_measured(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = make_export(checkpoints["layoutlm"], tmp_path / "model", ["O", "B-DUE", "I-DUE", "B-ITEM", "I-ITEM"])
    pages = jsonl.write(tmp_path / "pages.jsonl", jsonl.page("first"), jsonl.page("second"))
    command = ["python", ROOT / "benchmarks" / "serving.py", model, pages, "--seconds", 1, "--requests", 8]
    done = launch(command, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    for what in ("predict: ", "serve, 1 client(s): ", "serve, 8 client(s): ", "memory after 8 more requests: "):
        assert f"\n{what}" in done.stdout


@pytest.mark.slow
def test_predicted_steps_are_put_beside_real_ones(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    command = ["python", ROOT / "benchmarks" / "plan.py", tmp_path, "--ranks", 1, 2, "--stages", 1, "--steps", 3]
    done = launch([*command, "--model", checkpoints["layoutlm"]], timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split(" | ") for line in (tmp_path / "report.md").read_text().splitlines()[2:]]
    assert [row[:2] for row in rows] == [["| 1", "1"], ["| 2", "1"]]
    assert all(float(predicted) > 0 and float(measured) > 0 for _, _, predicted, measured, _ in rows)


@pytest.mark.slow
def test_steps_with_statistics_are_put_beside_those_without(forms: Path, checkpoints: dict[str, Path]) -> None:
    command = ["python", ROOT / "benchmarks" / "gradient_statistics.py", forms, "--model", checkpoints["layoutlm"]]
    done = launch([*command, "--rounds", 1, "--steps", 4, "--batch", 4, "--every", 2, "--length", 256], timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"^all steps: [+-][\d.]+% \(", done.stdout, re.MULTILINE)
    assert re.search(r"^a measured step: [+-][\d.]+% \(", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_study_takes_receipts(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    source = tmp_path / "receipts"
    for part in ("box", "entities"):
        (source / part).mkdir(parents=True)
    rng, names = random.Random(0), [f"receipt{number}" for number in range(20)]
    for name in names:
        words = [rng.choice(["brass", "wheel", "12", "Feb"]) for _ in range(6)]
        corners = [f"10,{y},90,{y},90,{y + 15},10,{y + 15}" for y in range(10, 130, 20)]
        lines = [f"{corner},{word}" for corner, word in zip(corners, words, strict=True)]
        (source / "box" / f"{name}.txt").write_text("\n".join(lines) + "\n")
        (source / "entities" / f"{name}.txt").write_text(json.dumps({"company": words[0], "total": words[-1]}))
    (source / "page_sizes.tsv").write_text("".join(f"{name}\t200\t200\n" for name in ["key", *names]))
    command = ["python", ROOT / "benchmarks" / "large_batch.py", tmp_path / "out", "--receipts", source]
    command += ["--model", checkpoints["bert"], "--batches", 4, "--seeds", 1, "--epochs", 1]
    done = launch(command, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    task, *rows = [json.loads(line) for line in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]
    assert task == {"receipts": 20, "epochs": 1}
    assert all(len(row["curve"]) == 1 for row in rows)
    assert "receipts 20, epochs 1, 1 seeds" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.slow
def test_the_study_of_large_batches_tunes_every_batch_and_goes_on_where_it_was(tmp_path: Path) -> None:
    command = ["python", ROOT / "benchmarks" / "large_batch.py", tmp_path, "--batches", 4, 8, 16, "--seeds", 2]
    command += ["--epochs", 1, "--layouts", 2, "--dev-pages", 16, "--pages", 32]
    done = launch(command, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    file = tmp_path / "runs.jsonl"
    task, *rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert task == {"pages": 32, "dev_pages": 16, "layouts": 2, "epochs": 1}
    cases = [(row["optimizer"], row["batch"], row["lr"], row["seed"], row["measured"]) for row in rows]
    assert len(set(cases)) == len(cases)
    (measured,) = [row for row in rows if row["measured"]]
    assert measured["batch"] == 4
    tried = [row for row in rows if not row["measured"]]
    # The best learning rate has a worse one on both sides.
    for optimizer in ("adamw", "lamb"):
        for batch in (4, 8, 16):
            own = [row for row in tried if (row["optimizer"], row["batch"], row["seed"]) == (optimizer, batch, 1)]
            best = min(own, key=lambda row: row["loss"])["lr"]
            assert min(row["lr"] for row in own) < best < max(row["lr"] for row in own)
    report = (tmp_path / "report.md").read_text()
    assert report.count("AdamW, tuned at each batch |") >= 3
    assert report.count("within one standard error") == 4
    assert f"{len(rows)} runs in all" in report
    drawn = ElementTree.parse(tmp_path / "f1.svg")
    svg = "{http://www.w3.org/2000/svg}"
    lines = [group for group in drawn.iter(f"{svg}g") if str(group.get("id")).startswith("line-")]
    assert [len(list(line.iter(f"{svg}use"))) for line in lines] == [3] * 4  # the batches of each arm
    # Without its last rows it trains just these again, to the same numbers; of one only a half was written.
    kept = "".join(f"{json.dumps(row)}\n" for row in [task, *rows[:-2]])
    file.write_text(kept + json.dumps(rows[-2])[:40])
    assert launch(command, timeout=900).returncode == 0
    _, *again = [json.loads(line) for line in file.read_text().splitlines()]

    def lasting(row: dict[str, object]) -> dict[str, object]:
        return {key: value for key, value in row.items() if key != "seconds"}

    assert sorted(map(str, map(lasting, again))) == sorted(map(str, map(lasting, rows)))
    other = launch([*command[:-1], 40], timeout=900)
    assert (other.returncode, "holds runs of another task" in other.stderr) == (1, True)
