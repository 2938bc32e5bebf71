"""Every command of the README runs as it stands, in order, in one folder."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet
from tests.builders import cord, families, sroie
from tests.builders.processes import HANGS_S, ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)  # (language, content)
COMMANDS = [line for language, content in BLOCKS if language == "bash" for line in content.strip().splitlines()]

BY_CI = ("make demo", "make test")
BY_ITSELF = "python -m pytest tests/engine/test_engine.py"


def block(language: str, start: str = "") -> str:
    """The first block of a language that starts so."""
    return next(content for its, content in BLOCKS if its == language and content.startswith(start))


def test_the_two_commands_and_the_checks_are_run_by_ci() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert set(BY_CI) | {"make check"} <= set(script)
    assert set(BY_CI) < set(COMMANDS)
    assert BY_ITSELF in COMMANDS
    assert len(COMMANDS) >= 9


def test_the_example_of_config_check_says_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from layoutner.cli import main

    example = block("json", '{\n  "train_batch_size"')
    shown = block("text", "ds.json:")
    (tmp_path / "ds.json").write_text(example)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="1"):
        main(["config", "check", "ds.json", "--world-size", "3"])
    assert capsys.readouterr().out == shown


def test_the_example_of_an_entity_is_what_predict_makes_of_such_words() -> None:
    from layoutner.inference.labelled_page import label_page
    from layoutner.objectives.evaluate import WordPrediction

    example = json.loads(block("json", '{"type"'))
    labels = [0] * 17 + [1, 2]
    boxes = ((0, 0, 9, 9),) * 17 + ((640, 102, 690, 120), (700, 100, 780, 119))
    page = Document("receipt", ("x",) * 17 + ("RM", "9.00"), boxes, None, (600, 800))
    answers = [WordPrediction(label, 1.0) for label in labels]
    assert label_page(page, answers, LabelSet("BIO", ("TOTAL",))).to_dict()["entities"] == [example]


def test_data_check_says_what_is_shown_of_the_real_receipts(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from layoutner.cli import main

    shown = block("text", "data/sroie2019:")
    (tmp_path / "data").symlink_to(real_data)
    monkeypatch.chdir(tmp_path)
    main(["data", "check", "data/sroie2019", "--data.format", "sroie"])
    said = iter(capsys.readouterr().out.splitlines())
    skipping = False
    for line in shown.splitlines():
        if line.strip() == "...":
            skipping = True
        else:
            assert line in said if skipping else line == next(said), line
            skipping = False


def make_hub(home: Path, forms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the hub with small networks under published names, for windows as long as those of the published."""
    from layoutner.demo.checkpoint import make_checkpoint

    monkeypatch.setattr(families, "POSITIONS", 512)
    made = home / "made"
    make_checkpoint(made / "layoutlm", forms, "layoutlm", seed=1, positions=512)
    families.make_tiny(made, forms, wordpiece=made / "layoutlm")
    for name, family in (("layoutlm-base-uncased", "layoutlm"), ("layoutlmv3-base", "layoutlmv3")):
        cached = home / "hub" / f"models--microsoft--{name}"
        (cached / "snapshots").mkdir(parents=True)
        (cached / "snapshots" / "0").symlink_to(made / family)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0")
    monkeypatch.setenv("HF_HOME", str(home))


def make_data(folder: Path, forms: Path) -> None:
    """Small data under the names that the commands have."""
    (folder / "data").mkdir()
    (folder / "data" / "funsd").symlink_to(forms)
    (folder / "page.png").symlink_to(next(forms.glob("testing_data/images/*.png")))
    (folder / "pages.jsonl").write_text(block("jsonl"))
    sroie.receipt(folder / "data" / "sroie2019")
    for number in range(20):
        receipt = cord.receipt()
        receipt["valid_line"][2]["words"][0]["text"] = f"Tea{number}"
        # Off the page, which --data.invalid_boxes clamp and --data.invalid_boxes clamp repair.
        receipt["valid_line"][2]["words"][0]["quad"]["x1"] = -3
        cord.write(folder / "data" / "cord", receipt, str(number))


def test_every_other_command_runs_as_it_stands(
    forms: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """data/ holds small forms and receipts; the hub's cache holds small networks under the published names."""
    make_data(tmp_path, forms)
    make_hub(tmp_path_factory.mktemp("hub"), forms, monkeypatch)
    (tmp_path / "runs" / "demo").mkdir(parents=True)  # what `make demo` leaves
    (tmp_path / "runs" / "demo" / "forms").symlink_to(forms)
    (tmp_path / "runs" / "demo" / "start").symlink_to(checkpoints["layoutlm"])
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    no_cluster = shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True, check=False).returncode
    for command in COMMANDS:
        if command in (*BY_CI, BY_ITSELF):
            continue
        if command.startswith("sbatch"):
            if no_cluster:
                continue
            command = command.replace("sbatch", "sbatch --wait", 1)
        if "page.png" in command and shutil.which("tesseract") is None:
            continue
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=HANGS_S, check=False
        )
        logs = "".join(log.read_text() for log in tmp_path.glob("*.log"))
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}{logs[-2000:]}"
    pages = [json.loads(line) for line in (tmp_path / "words.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sum(len(page["words"]) for page in pages) == (tmp_path / "test_predictions.txt").read_text().count(" ")
    assert len(list((tmp_path / "drawn").glob("*.png"))) == len(pages) == 8
    labelled = [json.loads(line) for line in (tmp_path / "labelled.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [[word["text"] for word in page["words"]] for page in labelled] == [["Total", "9.00"], ["Sum", "12.50"]]
    folds = json.loads((tmp_path / "runs" / "folds" / "scores.json").read_text(encoding="utf-8"))
    assert len(folds["folds"]) == 3
    assert folds["counts"]["documents"] == 24


@pytest.mark.slow
def test_the_benchmark_runs(real_data: Path, minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    few = [
        "--schedule.epochs",
        "1",
        "--batch.global_batch_size",
        "64",
        "--data.max_length",
        "128",
        "--data.stride",
        "0",
    ]
    command = [str(ROOT / "benchmarks" / "funsd.sh"), str(real_data / "funsd"), *few]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "test: 50 documents, 8707 words" in done.stdout
    assert re.search(r"all types +0\.\d+ +0\.\d+ +0\.\d+ +1998", done.stdout)
