"""Every command of README and docs runs as it stands, page by page, on small data under the names that it has."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from layoutner.demo.checkpoint import make_checkpoint
from tests.builders import annotations, cord, families, jsonl, pdfs, sroie
from tests.builders.invoices import COLUMNS, INVOICES, values, write_invoices
from tests.builders.markdown import block, blocks, commands
from tests.builders.processes import HANGS_S, ROOT, call, free_port, untimed
from tests.builders.servers import serving

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("default_port")]  # commands run as they are printed

IN_THIS_PROCESS = re.compile(r"layoutner (config|data|predict|evaluate|export|report|slurm-script|train --help)\b")
BY_CI = ("make demo", "make test", "python -m pytest tests/engine/test_engine.py")

RunPages = Callable[..., Path]


@pytest.fixture(scope="session")
def hub(forms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the hub with small networks under published names, for windows as long as those of the published."""
    home = tmp_path_factory.mktemp("hub")
    made = home / "made"
    make_checkpoint(made / "layoutlm", forms, "layoutlm", seed=1, positions=512)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "POSITIONS", 512)
        families.make_tiny(made, forms, wordpiece=made / "layoutlm")
    for name, family in (("layoutlm-base-uncased", "layoutlm"), ("layoutlmv3-base", "layoutlmv3")):
        cached = home / "hub" / f"models--microsoft--{name}"
        (cached / "snapshots").mkdir(parents=True)
        (cached / "snapshots" / "0").symlink_to(made / family)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0")
    return home


@pytest.fixture(scope="session")
def trained(forms: Path, train_arguments: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, for pages that use a model without training it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    command = [sys.executable, "-m", "layoutner", "train", *train_arguments(folder, data__test=forms)]
    subprocess.run(command, capture_output=True, check=True, timeout=HANGS_S)
    return folder


@pytest.fixture
def run_pages(
    hub: Path,
    trained: Path,
    forms: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> RunPages:
    """Runs the commands of pages in a folder of their own, which it returns; a command of two pages runs once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(hub))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub / "hub"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LAYOUTNER_OCR__CACHE", str(tmp_path / "ocr-cache"))
    make_data(tmp_path, forms, checkpoints["layoutlm"])

    def run(*pages: str) -> Path:
        lines = [line for line in dict.fromkeys(line for page in pages for line in commands(page)) if line not in BY_CI]
        for model in ("runs/funsd", "runs/forms"):
            if f"--run.output_dir {model}" not in " ".join(lines):
                shutil.copytree(trained, tmp_path / model)
        if not any(re.match(r"layoutner export \S+ models/funsd$", line) for line in lines):
            shutil.copytree(trained / "export", tmp_path / "models" / "funsd")
        for line in lines:
            if IN_THIS_PROCESS.match(line):
                run_here(line, capsys)
            else:
                run_in_a_shell(line)
        return tmp_path

    return run


@pytest.fixture
def demo_left(forms: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """What `layoutner demo` leaves."""
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "forms").symlink_to(forms)
    (tmp_path / "runs" / "demo" / "start").symlink_to(checkpoints["layoutlm"])


def make_data(folder: Path, forms: Path, start: Path) -> None:
    """Small data, and what `make demo` leaves, under the names that the commands have."""
    (folder / "data").mkdir()
    (folder / "data" / "funsd").symlink_to(forms)
    (folder / "page.png").symlink_to(next(forms.glob("testing_data/images/*.png")))
    (folder / "pages.jsonl").write_text(block("docs/data.md", "jsonl"))
    make_annotations(folder)
    (folder / "invoice.jsonl").write_text(block("docs/data.md", "jsonl").splitlines()[0])
    sroie.receipt(folder / "data" / "sroie2019")
    for number in range(20):
        receipt = cord.receipt()
        receipt["valid_line"][2]["words"][0]["text"] = f"Tea{number}"
        # Off the page, which --data.invalid_boxes clamp repairs.
        receipt["valid_line"][2]["words"][0]["quad"]["x1"] = -3
        cord.write(folder / "data" / "cord", receipt, str(number))
    (folder / "slurm").symlink_to(ROOT / "slurm")
    (folder / "docs").symlink_to(ROOT / "docs")
    (folder / "ds.json").write_text(block("docs/deepspeed-config.md", "json"))
    sweep = block("docs/sweeps.md", "toml")  # one of its runs
    for listed in ("[1, 2]", "[8, 32]", "[1e-3, 3e-3]"):
        sweep = sweep.replace(listed, listed.partition(",")[0] + "]")
    (folder / "sweep.toml").write_text(sweep)
    (folder / "run.toml").write_text(
        f'[model]\nname_or_path = "{start}"\n[data]\ntrain = "data/funsd"\ntest = "data/funsd"\n'
        "max_length = 128\nstride = 16\n"
        '[batch]\nglobal_batch_size = 8\n[schedule]\nmax_steps = 2\n[run]\noutput_dir = "runs/new"\n'
    )


def make_annotations(folder: Path) -> None:
    """Exports of annotation tools, and pages with images."""
    task = annotations.task("/data/upload/1/1a2b3c4d-receipt-1.png", annotations.rectangle("TOTAL", 65, 8, 20, 5))
    (folder / "export.json").write_text(json.dumps([task]))
    line = [{"transcription": "Acme Ltd", "points": [[9, 9], [70, 9], [70, 20], [9, 20]], "key_cls": "NAME"}]
    (folder / "Label.txt").write_text(f"receipts/page.png\t{json.dumps(line)}\n")
    (folder / "scans").mkdir()
    (folder / "scans" / "page.png").symlink_to((folder / "page.png").resolve())
    jsonl.write(folder / "scans" / "pages.jsonl", jsonl.page("page", image="page.png"))


def run_here(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command in this process, with its redirections, which is much quicker."""
    command, *redirections = re.split(r" ([<>]) (\S+)", line)
    files = dict(zip(redirections[::3], redirections[1::3], strict=False))
    with open(files.get("<", os.devnull), encoding="utf-8") as given, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", given)
        code, out, err = call(capsys, *shlex.split(command)[1:])
    assert code == 0, f"{line}\n{err[-2000:]}"
    if ">" in files:
        Path(files[">"]).write_text(out, encoding="utf-8")


def run_in_a_shell(line: str) -> None:
    """Run a command as it stands, but for two epochs where only the recipe says how many.

    A command for Slurm is left out if no cluster answers, or if it asks for GPUs.
    """
    if line.startswith(("sbatch", "slurm/")):
        if "gpus" in line or shutil.which("sinfo") is None or subprocess.run(["sinfo"], check=False).returncode:
            return
        line = f"{line} --wait" if line.startswith("slurm/") else line.replace("sbatch", "sbatch --wait", 1)
    # Another run on this machine may have the launchers' own port.
    line = line.replace("deepspeed ", f"deepspeed --master_port {free_port()} ", 1)
    line = line.replace("torchrun ", f"torchrun --master-port {free_port()} ", 1)
    short = {} if line.startswith("layoutner demo") else {"LAYOUTNER_SCHEDULE__EPOCHS": "2"}
    done = subprocess.run(
        line, shell=True, env=os.environ | short, capture_output=True, text=True, timeout=HANGS_S, check=False
    )
    if line == "layoutner demo":
        Path("demo.log").write_text(done.stdout, encoding="utf-8")
    logs = "".join(log.read_text() for log in Path().glob("*.log"))
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}{logs[-2000:]}"


def words(file: Path) -> list[list[str]]:
    """The words of each page of a file that `predict` wrote."""
    pages = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [[word["text"] for word in page["words"]] for page in pages]


def test_readme_and_quick_start(run_pages: RunPages) -> None:
    folder = run_pages("README.md", "docs/quick-start.md")
    log = untimed((folder / "demo.log").read_text(encoding="utf-8"))
    for line in block("README.md", "text").splitlines():
        # bf16 kernels do not repeat themselves, so losses differ in their last digits, and the F1 may.
        if not re.search("loss|all types|F1", line):
            assert re.search(f"^{re.escape(line).replace(re.escape('...'), '.*')}$", log, re.MULTILINE), line
    assert float(log.splitlines()[-1].removeprefix("F1 on 80 forms that were not trained on: ")) >= 0.99
    assert len(words(folder / "words.jsonl")) == 8
    assert len(list((folder / "drawn").glob("*.png"))) == 9
    # The picture of the README shows what the demo's model finds.
    (note,) = [json.loads(line) for line in (folder / "note.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [(entity["type"], entity["text"]) for entity in note["entities"]]
    assert found[:4] == [
        ("SENDER", "Anna Keller Supply"),
        ("RECEIVER", "Jonas Peters"),
        ("ORDERED", "3 Mar 2025"),
        ("DUE", "14 Apr 2025"),
    ]
    assert len(found) == 4 + 3 * 5 + 1
    assert ("TOTAL", "73") in found


def test_data(run_pages: RunPages) -> None:
    folds = json.loads((run_pages("docs/data.md") / "runs" / "folds" / "scores.json").read_text(encoding="utf-8"))
    assert len(folds["folds"]) == 3
    assert folds["counts"]["documents"] == 24


def test_annotation_tools(run_pages: RunPages) -> None:
    folder = run_pages("docs/annotation-tools.md")
    assert words(folder / "train.jsonl") == [["Total", "9.00"]]
    assert words(folder / "receipts.jsonl") == [["Acme", "Ltd"]]
    (task,) = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    assert task["data"]["image"] == "/data/local-files/?d=page.png"


def test_predict(run_pages: RunPages) -> None:
    if shutil.which("tesseract") is None:
        pytest.skip("no tesseract")
    folder = run_pages("docs/predict.md")
    assert words(folder / "labelled.jsonl") == [["Total", "9.00"], ["Sum", "12.50"]]
    assert len(list((folder / "drawn-page").glob("*.png"))) == 1
    assert (folder / "test_predictions.txt").read_text().count(" ") > 100
    assert len((folder / "fields.jsonl").read_text().splitlines()) == 2
    assert (folder / "fields.csv").read_text().startswith("document,pages,DUE,DUE text,DUE confidence,")


def test_invoices(run_pages: RunPages, tmp_path: Path) -> None:
    """Six PDFs and what people have marked on them become a table with the right values."""
    if shutil.which("tesseract") is None:
        pytest.skip("no tesseract")
    write_invoices(tmp_path)
    folder = run_pages("docs/invoices.md")
    prepared = [json.loads(line) for line in (folder / "work" / "pages.jsonl").read_text().splitlines()]
    assert len(prepared) == 8
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["f1"] == 1.0
    assert scores["field_accuracy"] == {"fields": 24, "right": 24, "accuracy": 1.0}
    with (folder / "table.csv").open(newline="", encoding="utf-8") as table:
        rows = {row["document"]: row for row in csv.DictReader(table)}
    assert {name: {column: row[column] for column in COLUMNS} for name, row in rows.items()} == {
        invoice.name: values(invoice) for invoice in INVOICES
    }
    assert rows["invoice-3"]["pages"] == "3"
    assert (folder / "review.csv").read_text().splitlines() == ["document,page,type,text,confidence,reason"]


def test_documents_in(run_pages: RunPages, tmp_path: Path) -> None:
    for number in range(2):
        pdfs.write_pdf(tmp_path / "invoices" / f"{number}.pdf", pdfs.Sheet(pdfs.text(72, 700, f"INVOICE {number}")))
    assert words(run_pages("docs/documents-in.md") / "invoices.jsonl") == [["INVOICE", "0"], ["INVOICE", "1"]]


def test_report(run_pages: RunPages) -> None:
    folder = run_pages("docs/report.md")
    curves, errors = ((folder / name).read_text(encoding="utf-8") for name in ("report.html", "errors.html"))
    assert "<h2>Curves</h2>" in curves
    assert "<h2>Curves</h2>" not in errors
    assert all("<h3>Kinds of errors</h3>" in page for page in (curves, errors))


@pytest.mark.usefixtures("demo_left")
def test_checkpoints(run_pages: RunPages) -> None:
    folder = run_pages("docs/checkpoints.md")
    assert (folder / "runs" / "first" / "checkpoints" / "latest").read_text().strip() == "step-000030"
    assert json.loads((folder / "runs" / "funsd" / "all.json").read_text()).keys() == {"6"}


@pytest.mark.parametrize(
    "page",
    [
        "docs/batch-and-learning-rate.md",
        "docs/deepspeed-config.md",
        "docs/gpus-and-slurm.md",
        "docs/models.md",
        "docs/settings.md",
        "docs/sweeps.md",
    ],
)
@pytest.mark.usefixtures("demo_left")
def test_the_commands_of_a_page(page: str, run_pages: RunPages) -> None:
    run_pages(page)


def test_serving(forms: Path, checkpoints: dict[str, Path], trained: Path, tmp_path: Path) -> None:
    if shutil.which("tesseract") is None or shutil.which("curl") is None:
        pytest.skip("needs tesseract and curl")
    make_data(tmp_path, forms, checkpoints["layoutlm"])
    (serve,) = commands("docs/serving.md")
    arguments = shlex.split(serve)[3:]
    (tmp_path / "page.json").write_text(block("docs/data.md", "jsonl").splitlines()[0], encoding="utf-8")
    with serving(trained / "export", tmp_path / "temporary", *arguments) as server:
        for line in block("docs/serving.md", "sh").splitlines():
            line = line.replace("curl ", "curl --silent --show-error --fail ").replace(
                "http://127.0.0.1:8000", server.address
            )
            done = subprocess.run(
                line, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=HANGS_S, check=False
            )
            assert done.returncode == 0, line + done.stderr
            if "/predict" in line:
                assert json.loads(done.stdout).keys() == json.loads(block("docs/serving.md", "json")).keys()
        assert server.stop() == 0


def test_no_page_is_left_out() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    pages = [f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")]
    assert [page for page in pages if set(commands(page)) - set(BY_CI) and f'"{page}"' not in source] == []


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_python_examples(
    page: str,
    forms: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path, forms, checkpoints["layoutlm"])
    names: dict[str, object] = {}
    for language, content in blocks(page):
        if language == "python":
            exec(compile(content, page, "exec", dont_inherit=True), names)
    assert "test: 8 documents" in capsys.readouterr().out


def test_the_benchmark_runs(real_data: Path, minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    few = ["--schedule.epochs=1", "--batch.global_batch_size=64", "--data.max_length=128", "--data.stride=0"]
    few.append("--precision.dtype=fp32")  # bf16 takes many minutes on a CPU that emulates it
    command = [str(ROOT / "benchmarks" / "funsd.sh"), str(real_data / "funsd"), *few]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "test: 50 documents, 8707 words" in done.stdout
    assert re.search(r"all types +0\.\d+ +0\.\d+ +0\.\d+ +1998", done.stdout)
