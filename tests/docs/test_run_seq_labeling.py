"""The pages for users of run_seq_labeling.py: examples print what is shown, names exist, figures are as committed."""

import ast
import io
import json
import os
import re
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from layoutner.demo.checkpoint import make_checkpoint
from layoutner.documents.roles import read_documents
from layoutner.pages.document import Document
from layoutner.pages.labels import to_spans, to_tags
from layoutner.settings.data import DataSettings
from tests.builders.markdown import as_lines
from tests.builders.processes import HANGS_S, ROOT, untimed

pytestmark = pytest.mark.usefixtures("default_port")  # commands run as they are printed

GUIDE = ROOT / "docs" / "run_seq_labeling"
OWN = ("index.md", "line-by-line.md")  # the other pages have tests of their own
PAGES = sorted(GUIDE.glob("*.md"))
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
figures = runpy.run_path(str(GUIDE / "figures.py"))
FIGURES: dict[str, Callable[[], str]] = figures["FIGURES"]
EXAMPLE = re.compile(r"```python\n(.*?)```\n```text\n(.*?)```", re.DOTALL)

# The questions of the notebook, each of which is a heading that holds these words.
QUESTIONS = (
    "What is a Sampler?",
    "What is a DataLoader?",
    "What does collate_fn do, and why were the last two entries not stacked?",
    "Why `//`, and how do max_steps, num_train_epochs, gradient_accumulation_steps and the loader's length hang "
    "together?",
    "What is half precision for in training, what did apex do, what does DeepSpeed's fp16 block do instead, and is it "
    "optional?",
    "What happens to amp.scale_loss and scaled_loss.backward()?",
    "DataParallel, DistributedDataParallel, local_rank: what replaced them?",
    "What do ZeRO 1, 2 and 3 each keep where?",
    "model.zero_grad(), loss.backward(), optimizer.step(), scheduler.step() against engine.backward and engine.step: "
    "who does what, when?",
    "What is in the input dictionary, key by key?",
    "What is in the output, field by field?",
    "What does set_seed do, and what does it not make reproducible?",
    'What does get_labels do, and why does "O" come first?',
    "What do the helper logs say, that could be ignored for now?",
)
ANSWERS = ("Why has RoBERTa no segment ids?", "What is bbox?", "What does -100 mean?")
OLD_LOG = (
    "Num examples",
    "Num Epochs",
    "Instantaneous batch size per GPU",
    "Total train batch size (w. parallel, distributed & accumulation)",
    "Gradient Accumulation steps",
    "Total optimization steps",
)


def headings(page: str) -> list[str]:
    """Headings of a page, without the marks and the lines of code blocks."""
    prose = re.sub(r"```.*?```", "", TEXTS[page], flags=re.DOTALL)
    return re.findall(r"^#+ (.*)$", prose, re.MULTILINE)


def anchor(heading: str) -> str:
    """The name under which Markdown viewers link to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def names(path: Path) -> set[str]:
    """Functions, classes and methods of a module, methods as Class.method."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


def test_the_examples_print_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = EXAMPLE.findall(TEXTS["line-by-line.md"])
    assert len(examples) >= 20
    assert len(examples) == TEXTS["line-by-line.md"].count("```python")
    monkeypatch.chdir(tmp_path)
    session: dict[str, object] = {}
    for code, shown in examples:
        said = io.StringIO()
        with redirect_stdout(said):
            exec(compile(code, "line-by-line.md", "exec", dont_inherit=True), session)
        assert said.getvalue() == shown, code


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_a_heading_with_an_answer(question: str) -> None:
    text = TEXTS["line-by-line.md"]
    assert question in headings("line-by-line.md")
    answer = text.partition(f"## {question}\n")[2].partition("\n## ")[0]
    assert len(answer.split()) >= 80
    assert f"- [{question}](line-by-line.md#{anchor(question)})\n" in TEXTS["index.md"]


def test_what_belongs_to_a_question_is_answered_too() -> None:
    text = TEXTS["line-by-line.md"]
    assert [one for one in ANSWERS if f"\n**{one}** " not in text] == []
    assert [line for line in OLD_LOG if f"\n| `{line}` | " not in text] == []


def test_the_answer_on_the_loss_scale_is_what_the_engine_does() -> None:
    heading = "What happens to amp.scale_loss and scaled_loss.backward()?"
    answer = " ".join(TEXTS["line-by-line.md"].partition(f"## {heading}\n")[2].partition("\n## ")[0].split())
    engine = (ROOT / "layoutner" / "engine" / "engine.py").read_text(encoding="utf-8")
    assert "At ZeRO 0 with fp16, `engine.backward` does not multiply the loss by the loss scale" in engine
    assert "by DeepSpeed at ZeRO 1 to 3, by layoutner itself at ZeRO 0" in answer
    # metrics.jsonl has a number of steps, and only at logged ones.
    assert "How many steps have been skipped so far, and the scale, are in `metrics.jsonl`" in answer
    assert "at each logged step" in answer


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_names_exist(page: Path) -> None:
    text = TEXTS[page.name]
    files = set(re.findall(r"\b((?:layoutner|tests|benchmarks)/[\w/.-]+\.\w+)", text))
    assert [file for file in sorted(files) if not (ROOT / file).is_file()] == []
    named = re.findall(r"`(layoutner/[\w/]+\.py): ([\w.]+)`", text)
    assert [f"{file}: {name}" for file, name in named if name not in names(ROOT / file)] == []
    if page.name == "line-by-line.md":
        assert len(set(named)) >= 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", TEXTS[page.name], flags=re.DOTALL))
    wrong = []
    for target in targets:
        if "://" in target:
            continue
        file, _, place = target.partition("#")
        there = page.parent / file if file else page
        if not there.is_file() or (place and place not in map(anchor, headings(there.name))):
            wrong.append(target)
    assert wrong == []
    if page.name in OWN:
        assert {"options.md", "differences.md"} <= set(targets)


def test_the_pages_name_no_place_of_this_machine() -> None:
    for page, text in TEXTS.items():
        assert not re.search(r"/work|\.library|shared/", text), page


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_as_committed(name: str) -> None:
    drawn = FIGURES[name]()
    again = "draw it again: python docs/run_seq_labeling/figures.py (another Pillow may measure words differently)"
    assert drawn.encode() == (GUIDE / name).read_bytes(), again
    assert drawn.startswith("<svg ")
    assert '<rect x="0" y="0"' in drawn.splitlines()[2]  # white, for dark pages
    assert f"]({name})" in TEXTS["line-by-line.md"]


def test_the_figures_show_what_the_functions_say() -> None:
    from layoutner.corpus.batches import step_windows

    steps = figures["accumulation"]()
    assert all(f">{index}</text>" in steps for index in step_windows(42, 0, 0, 150, 16))
    assert steps.count(" tokens</text>") == 16
    curve = figures["learning_rate"]()
    assert "1000 steps = 100 epochs x 10 steps" in curve
    # Peak 5e-5: half of it in the middle of the warm-up and of the decay, and 1/900 and 1/1000 of it in the last step.
    for mark in ("step 50: 2.5e-05", "step 100: 5e-05", "step 550: 2.5e-05", "step 999: 5e-08"):
        assert f">{mark}</text>" in curve
    page = figures["window"]()
    assert page.count(">-100</text>") == 35 - 29  # tokens that are no word's first
    assert ">1000, 1000, 1000, 1000</text>" in page


# ---- the afternoon


def write_old_data(folder: Path, forms: Path, train: int, test: int) -> None:
    """The files of run_seq_labeling.py's preprocessing, of the first forms of each split."""
    folder.mkdir()
    tags = set()
    for split, role, count in (("train", "train", train), ("test", "test", test)):
        pages = read_documents(DataSettings(), forms, role)[:count]
        files: dict[str, list[str]] = {"": [], "_box": [], "_image": []}
        for page in pages:
            for row in _rows(page):
                for lines, line in zip(files.values(), row, strict=True):
                    lines.append(line)
            for lines in files.values():
                lines.append("")
            tags |= set(_bioes(page))
        for suffix, lines in files.items():
            (folder / f"{split}{suffix}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "labels.txt").write_text("\n".join(sorted(tags)) + "\n", encoding="utf-8")


def _bioes(page: Document) -> list[str]:
    return to_tags(to_spans(page.tags or ()), len(page.words), "BIOES")


def _rows(page: Document) -> list[tuple[str, str, str]]:
    """Lines of {split}.txt, _box.txt and _image.txt."""
    width, height = page.page_size
    rows = []
    for word, tag, box in zip(page.words, _bioes(page), page.boxes, strict=True):
        shown = " ".join(map(str, box))
        rows.append((f"{word}\t{tag}", f"{word}\t{shown}", f"{word}\t{shown}\t{width} {height}\t{page.name}.png"))
    return rows


def make_hub(home: Path, forms: Path) -> None:
    """A hub cache with a small LayoutLM under the published name, for windows as long as those of the published one."""
    cached = home / "hub" / "models--microsoft--layoutlm-base-uncased"
    make_checkpoint(cached / "snapshots" / "0", forms, "layoutlm", seed=1, positions=512)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0")


def afternoon() -> list[tuple[str, str]]:
    """(command, text shown after it, else ""), in the order of the page."""
    found: list[tuple[str, str]] = []
    for language, content in re.findall(r"```(\w+)\n(.*?)```", TEXTS["index.md"], re.DOTALL):
        if language == "bash":
            found += [(line, "") for line in as_lines(content)]
        elif found:
            found[-1] = (found[-1][0], content)
    return found


def run(command: str, shown: str, folder: Path) -> None:
    """Run a command of the page in a folder, and look for the lines that are shown after it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "HF_HOME": str(folder / "home"), "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=HANGS_S, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    for line in shown.splitlines():
        pattern = ".*".join(map(re.escape, line.split("...")))
        assert re.search(f"^{pattern}$", untimed(done.stdout), re.MULTILINE), f"{command}\n{line}\n{done.stdout}"


@pytest.fixture(scope="module")
def trained(forms: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str]]]:
    """The folder after the page's first commands, up to training in full; and the commands that are left, the short
    try among them, which has a folder of its own.
    """
    folder = tmp_path_factory.mktemp("afternoon")
    write_old_data(folder / "data", forms, train=6, test=3)
    make_hub(folder / "home", forms)
    commands = afternoon()
    tried, full, *_ = (number for number, (command, _) in enumerate(commands) if "layoutner train" in command)
    assert "--run.output_dir out/try" in commands[tried][0]
    for command, shown in [*commands[:tried], *commands[tried + 1 : full + 1]]:
        run(command, shown, folder)
    return folder, [commands[tried], *commands[full + 1 :]]


@pytest.mark.slow
def test_the_afternoon_leads_from_old_data_to_a_trained_model(trained: tuple[Path, list[tuple[str, str]]]) -> None:
    out = trained[0] / "out" / "forms"
    page = TEXTS["index.md"].partition("`out/forms` holds")[2].partition("###")[0]
    listed = re.findall(r"`([\w./]+)`", "".join(re.findall(r"^\| (`.*?) \| ", page, re.MULTILINE)))
    assert len(listed) >= 9
    assert [name for name in listed if not (out / name).exists()] == []
    # What is named below the table as of the script alone is not there.
    assert re.findall(r"The script's `(.*)` has no counterpart there", page) == ["train.log"]
    assert not (out / "train.log").exists()
    # As the script wrote them: every word of the test split has its line, and the empty lines are kept.
    wanted = (trained[0] / "data" / "test.txt").read_text(encoding="utf-8").splitlines()
    got = (out / "test_predictions.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ")[0] for line in got] == [line.split("\t")[0] for line in wanted]


@pytest.mark.slow
def test_the_rest_of_the_afternoon_runs_as_it_stands(trained: tuple[Path, list[tuple[str, str]]]) -> None:
    folder, commands = trained
    for command, shown in commands:
        run(command, shown, folder)
    assert [command.split()[:2] for command, _ in commands[2:]] == [
        ["layoutner", "export"],
        ["layoutner", "evaluate"],
        ["layoutner", "predict"],
        ["layoutner", "predict"],
    ]
    # Training and `predict` label alike.
    in_training = (folder / "out" / "forms" / "test_predictions.txt").read_text(encoding="utf-8")
    assert (folder / "test_predictions.txt").read_text(encoding="utf-8").split() == in_training.split()
    pages = [json.loads(line) for line in (folder / "words.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [f"{word['text']} {word['label']}" for page in pages for word in page["words"]] == [
        line for line in in_training.splitlines() if line
    ]


@pytest.mark.slow
def test_the_wheel_holds_no_page_of_the_documentation(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=HANGS_S)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        pages = [name for name in opened.namelist() if name.endswith((".md", ".svg"))]
    assert pages == ["layoutner/slurm/README.md"]  # which `layoutner slurm-script readme` prints
