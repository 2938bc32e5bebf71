"""The pages: commands are parsed by the real parser, examples print what is shown, names and links exist."""

import json
import re
import runpy
import tomllib
from argparse import Namespace
from pathlib import Path
from typing import Any, get_args

import pytest

from layoutner import cli
from layoutner.cli.arguments import Parser, overrides
from layoutner.models.families import FAMILIES
from layoutner.objectives.evaluate import WordPrediction
from layoutner.pages.document import Document
from layoutner.pages.labels import LabelSet
from layoutner.planning.batch_plan import plan_batch
from layoutner.planning.schedule import plan_schedule
from layoutner.settings.data import FormatName
from layoutner.settings.schedule import ScheduleSettings
from layoutner.settings.tree import load, sections
from tests.builders.markdown import NAMES, PAGES, as_layoutner, block, blocks, commands, prose
from tests.builders.processes import ROOT, call

HOOKS = runpy.run_path(str(ROOT / "docs" / "hooks.py"))
EVERY_PAGE = pytest.mark.parametrize("page", NAMES.values())
OTHER_COMMANDS = {  # command -> the file that has it
    "make demo": ".ci/run",
    "make test": ".ci/run",
    "python -m pytest tests/engine/test_engine.py": "tests/engine/test_engine.py",
}


def parse(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """The options of a command line, as the real parser reads them. Nothing is done with them."""
    found: list[Namespace] = []
    original = Parser.parse_known_args

    def read(self: Parser, *given: Any, **named: Any) -> Any:
        options, strangers = original(self, *given, **named)
        options.do = found.append
        return options, strangers

    monkeypatch.setattr(Parser, "parse_known_args", read)
    cli._run(arguments)
    return found[0]


@pytest.mark.parametrize(
    ("page", "command"), [(page, command) for page in NAMES.values() for command in commands(page)]
)
def test_a_command_is_one_that_layoutner_takes(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started = as_layoutner(command)
    if started is None:
        assert (ROOT / OTHER_COMMANDS[command]).is_file()
    elif "--help" not in started.arguments:
        options = parse(started.arguments, monkeypatch)
        if started.arguments[0] in ("train", "cross-validate") and "settings.toml" not in command:
            settings = load(options.config, overrides(options))
            plan_batch(settings.batch.global_batch_size, settings.batch.micro_batch_size, started.ranks)


def test_the_two_commands_are_run_by_ci() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert {"make check", "make demo", "make docs", "make test", "make test-slow"} <= set(script)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    assert "test-all: test test-slow" in makefile
    assert commands("README.md")[:2] == ["make demo", "make test"]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@EVERY_PAGE
def test_links_lead_somewhere(page: str) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        file, _, place = target.partition("#")
        there = (ROOT / page).parent / file if file else ROOT / page
        if not there.is_file():
            wrong.append(target)
        elif place:
            headings = re.findall(r"^#+ (.*)$", prose(str(there.resolve().relative_to(ROOT))), re.MULTILINE)
            if place not in map(HOOKS["anchor"], headings):
                wrong.append(target)
    assert wrong == []


@EVERY_PAGE
def test_files_of_the_project_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    files = set(re.findall(r"(?<![\w/.])((?:layoutner|tests|benchmarks|slurm|docs)/[\w/.-]+\.\w+)", text))
    made_up = {"layoutner/readers/csv_words.py"}
    assert [file for file in sorted(files - made_up) if not (ROOT / file).is_file()] == []


@EVERY_PAGE
def test_settings_that_a_page_names_exist(page: str) -> None:
    known = {f"{section}.{key}" for section, model in sections().items() for key in model.model_fields}
    named = re.findall(rf"`(?:--)?((?:{'|'.join(sections())})\.[a-z]\w+)\b(?!\.)", prose(page))
    files = re.compile(
        r"\.(py|md|toml|json|jsonl|onnx|safetensors|txt|log|train|eval|step|zero_grad|backward|initialize)$"
    )
    assert [name for name in named if name not in known and not files.search(name)] == []


def test_the_pages_name_no_place_outside_the_checkout() -> None:
    absolute = r"(?<![\w.])/(?:work|home|root|tmp|mnt|opt|usr|var)/"
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(rf"{absolute}|{re.escape(str(ROOT.parent))}/", text), path
        for relative in re.findall(r"(?:\.\./)+[\w./-]*", text):
            assert (path.parent / relative).resolve().is_relative_to(ROOT), (path, relative)


def test_the_site_has_every_page() -> None:
    listed = re.findall(r": ([\w./-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(
        str(path.relative_to(ROOT / "docs")) for path in PAGES if path.is_relative_to(ROOT / "docs")
    )


def test_the_site_builds_without_a_warning_and_loads_nothing_from_the_net(tmp_path: Path) -> None:
    build = pytest.importorskip("mkdocs.commands.build", reason="no mkdocs: `make docs` installs it")
    from mkdocs.config import load_config

    build.build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path)))
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="?(https?://[^" >]+)', page.read_text(encoding="utf-8")
        )
        assert loaded == [], page
    assert "batch.global_batch_size" in (tmp_path / "settings" / "index.html").read_text(encoding="utf-8")


def test_the_settings_reference_describes_every_setting() -> None:
    page = HOOKS["on_page_markdown"]((ROOT / "docs" / "settings.md").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| `([\w.]+)` \| (.+) \| (.+) \| (.+) \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == [f"{s}.{key}" for s, model in sections().items() for key in model.model_fields]
    by_name = {name: (kind, default, text) for name, kind, default, text in rows}
    assert by_name["optimizer.betas"][1] == "`0.9,0.999`"
    assert by_name["schedule.warmup_ratio"][:2] == ("number, at least 0, at most 1", "not set")
    assert by_name["deepspeed.zero_stage"][0] == "`0`, `1`, `2`, `3`"
    assert by_name["run.overwrite"][:2] == ("true or false", "`false`")
    assert by_name["batch.ramp"][:2] == ("list of pairs", "not set")


def rows_of(page: str, heading: str) -> list[str]:
    """First cells of the table below a heading."""
    part = prose(page).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([\w-]+)` \|", part, re.MULTILINE)


def test_the_tables_list_every_format_family_and_preset() -> None:
    assert sorted(rows_of("docs/data.md", "Formats")) == sorted(get_args(FormatName))
    assert rows_of("docs/models.md", "Families") == list(FAMILIES)
    assert sorted(rows_of("docs/gpus-and-slurm.md", "ZeRO presets")) == sorted(
        p.stem for p in (ROOT / "ds_configs").iterdir()
    )


def test_the_settings_file_of_the_page_is_one() -> None:
    tree = tomllib.loads(block("docs/settings.md", "toml"))
    settings = load(
        None, {section: {key: str(value) for key, value in values.items()} for section, values in tree.items()}
    )
    assert settings.batch.global_batch_size == 16
    assert settings.data.eval == 0.1


def test_the_schedule_is_what_is_shown() -> None:
    shown = block("docs/batch-and-learning-rate.md", "text", "schedule:").strip()
    assert shown == f"schedule: {plan_schedule(ScheduleSettings(epochs=100), 64, 150)}"


def test_the_example_of_config_check_prints_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = "docs/deepspeed-config.md"
    (tmp_path / "ds.json").write_text(block(page, "json"))
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "config", "check", "ds.json", "--world-size", "3")
    assert code == 1
    assert out == block(page, "text", "ds.json:")


def test_the_example_of_an_entity_is_what_predict_makes_of_such_words() -> None:
    from layoutner.inference.labelled_page import label_page

    example = json.loads(block("docs/predict.md", "json", '{"type"'))
    labels = [0] * 17 + [1, 2]
    boxes = ((0, 0, 9, 9),) * 17 + ((640, 102, 690, 120), (700, 100, 780, 119))
    page = Document("receipt", ("x",) * 17 + ("RM", "9.00"), boxes, None, (600, 800))
    answers = [WordPrediction(label, 1.0) for label in labels]
    assert label_page(page, answers, LabelSet("BIO", ("TOTAL",))).to_dict()["entities"] == [example]


def test_data_check_prints_what_is_shown_of_the_real_receipts(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").symlink_to(real_data)
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "data", "check", "data/sroie2019", "--data.format", "sroie")
    assert code == 0
    printed, skipping = iter(out.splitlines()), False
    for line in block("docs/data.md", "text", "data/sroie2019:").splitlines():
        if line.strip() == "...":
            skipping = True
        else:
            assert line in printed if skipping else line == next(printed), line
            skipping = False


def test_every_python_block_of_the_pages_is_run_by_a_test() -> None:
    with_python = {page for page in NAMES.values() if any(language == "python" for language, _ in blocks(page))}
    assert with_python == {"README.md", "docs/python.md", "docs/extending.md", "docs/run_seq_labeling/line-by-line.md"}


def test_the_ramp_of_the_page_gives_what_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = "docs/batch-and-learning-rate.md"
    (tmp_path / "ramp.toml").write_text(block(page, "toml"), encoding="utf-8")
    given = ["--config", tmp_path / "ramp.toml", "--world-size", 2, "--windows", 150]
    code, _, err = call(capsys, "config", "render", *given)
    assert code == 0, err
    assert err == block(page, "text", "batch: 16 windows per step = 8 per micro-batch")
