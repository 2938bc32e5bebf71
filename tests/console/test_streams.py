"""Locales and terminals that are not UTF-8: nothing that is printed fails for its characters, files stay UTF-8."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders.processes import ROOT

PACKAGE = ROOT / "layoutner"
# By name; the locale of the last is made by the test.
TERMINALS: dict[str, dict[str, str]] = {
    "C": {"LC_ALL": "C"},
    "POSIX": {"LC_ALL": "POSIX"},
    "C without UTF-8": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "ISO-8859-1": {"LC_ALL": "en_US.ISO-8859-1"},
}


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for LOCPATH with a locale that few machines have."""
    folder = tmp_path_factory.mktemp("locales")
    if shutil.which("localedef") is None:
        pytest.skip("no localedef")
    made = folder / "en_US.ISO-8859-1"
    done = subprocess.run(["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(made)], capture_output=True, check=False)
    if not made.is_dir():
        pytest.skip(f"localedef made no locale: {done.stderr!r}")
    return folder


# The strictest, whose file names are ASCII too; the slow tier has the others.
FAST = ("C without UTF-8",)


@pytest.fixture(params=[name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in TERMINALS])
def terminal(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of each terminal."""
    more = TERMINALS[request.param]
    if request.param == "ISO-8859-1":
        more = {**more, "LOCPATH": str(request.getfixturevalue("locales"))}
    return more


def run(arguments: list[object], terminal: dict[str, str]) -> tuple[int, bytes, bytes]:
    """`layoutner ...` in a process of its own: (exit code, standard output, standard error)."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))
    }
    command = [sys.executable, "-m", "layoutner", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, cwd=ROOT, check=False, env={**environment, "DS_ACCELERATOR": "cpu", **terminal}
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode("utf-8", "replace")
    assert b"Logging error" not in done.stderr, done.stderr.decode("utf-8", "replace")
    return done.returncode, done.stdout, done.stderr


def corpus(folder: Path, pages: int = 6) -> Path:
    """Pages, words and labels that no 8-bit encoding has all letters of."""
    folder.mkdir(parents=True)
    for split, count in (("train", pages), ("test", 2)):
        lines = []
        for number in range(count):
            words = [
                {"text": "Größe", "box": [10, 20, 110, 40], "label": "B-MENÜ"},
                {"text": "合計", "box": [200, 20, 310, 40], "label": "B-合計"},
                {"text": f"{split} {number}", "box": [900, 20, 1000, 40], "label": "O"},
            ]
            name = f"{split}-é-図-{number}"
            lines.append(json.dumps({"document": name, "page_size": [200, 400], "words": words}, ensure_ascii=False))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_faultless_data_has_no_errors_on_any_terminal(terminal: dict[str, str], tmp_path: Path) -> None:
    data = corpus(tmp_path / "data")
    code, out, err = run(["data", "check", data, "--data.format=jsonl"], terminal)
    assert (code, err) == (0, b"")
    assert out.strip().endswith(b"0 problem(s) that stop a run, 0 worth a look")
    code, out, err = run(["data", "check", data, "--data.format=jsonl", "--format=json"], terminal)
    assert (code, err) == (0, b"")
    assert set(json.loads(out)["splits"]["train"]["entities"]) == {"MENÜ", "合計"}  # JSON, not "\xdc"


def test_errors_in_data_are_1_and_whatever_else_fails_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from layoutner.documents import check
    from tests.builders.processes import call

    for error, code in ((PermissionError("disk"), 2), (MemoryError(), 2), (KeyError("a fault of ours"), 70)):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(check, "check", fail)
        assert call(capsys, "data", "check", tmp_path)[0] == code


def test_names_that_are_no_text_are_printed(terminal: dict[str, str], tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        corpus(odd)
    except OSError:
        pytest.skip("the file system takes UTF-8 names alone")
    (odd / "train.jsonl").write_text("no JSON\n", encoding="utf-8")
    code, out, _ = run(["data", "check", odd, "--data.format=jsonl"], terminal)
    assert (code, b"train.jsonl line 1" in out) == (1, True)
    for arguments in (
        ["predict", odd, "--model", odd],
        ["export", odd, tmp_path / "out"],
        ["config", "check", odd],
        ["train", "--config", odd],
    ):
        code, out, err = run([*arguments], terminal)
        assert (code, out) == (2, b"")
        assert b"layoutner: error: " in err
        assert b"caf" in err
    if "LOCPATH" not in terminal:  # there it is text
        code, out, err = run(["train", f"--data.train={odd}"], terminal)
        assert (code, out) == (2, b"")
        assert b"the command line: data.train: " in err
        assert b"not in UTF-8" in err


def test_help_and_mistakes_are_printed(terminal: dict[str, str]) -> None:
    for command in (["train"], ["cross-validate"], ["data", "check"], ["predict"], ["evaluate"], ["config", "migrate"]):
        assert run([*command, "--help"], terminal)[0] == 0
    code, _, err = run(["train", "--größe=図"], terminal)
    assert (code, b"unknown argument" in err) == (2, True)


def test_settings_that_are_printed_are_a_settings_file(terminal: dict[str, str], tmp_path: Path) -> None:
    """TOML is UTF-8 wherever it is made: `config migrate -- ... > settings.toml`."""
    old = "python run_seq_labeling.py --data_dir données/図 --model_type layoutlm --model_name_or_path x --do_train"
    old += " --output_dir out/é"
    code, out, _ = run(["config", "migrate", "--", old], terminal)
    if "PYTHONUTF8" in terminal:
        assert (code, out) == (2, b"")  # no letter of the arguments is known there
        return
    assert code == 0
    settings = tomllib.loads(out.decode("utf-8"))
    if "LOCPATH" not in terminal:  # there the arguments are read as Latin-1
        assert "données/図" in settings["data"]["train"]


def test_findings_as_json_are_json(terminal: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "ds.json"
    config.write_text(json.dumps({"train_batch_size": 4, "größe-図": 1}, ensure_ascii=False), encoding="utf-8")
    code, out, _ = run(["config", "check", config, "--format=json"], terminal)
    found = json.loads(out)
    assert (code, found["findings"][0]["path"]) == (1, "größe-図")
    for format in ("text", "github"):
        code, out, _ = run(["config", "check", config, "--format", format], terminal)
        assert (code, b"gr" in out) == (1, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ascii", "ISO-8859-1"])
def test_a_run_loses_no_line(
    name: str,
    train_arguments: Callable[..., list[str]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    terminal = dict(TERMINALS[name])
    if "LC_ALL" in terminal:
        terminal["LOCPATH"] = str(request.getfixturevalue("locales"))
    data, folder = corpus(tmp_path / "data"), tmp_path / "run"
    more = {"data__format": "jsonl", "data__test": data, "schedule__max_steps": 1, "run__predictions": "unilm"}
    given = train_arguments(folder, data__train=data, **more)
    code, out, err = run(["train", *given], {**terminal, "OMP_NUM_THREADS": "1"})
    assert code == 0, err
    assert b"labels: 5 in BIO: O and MEN" in out
    assert b"step 1/1 loss" in out
    assert b"exported to" in out
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert {"MENÜ", "合計"} <= set(scores["by_entity"])
    lines = out.splitlines()
    start = next(index for index, line in enumerate(lines) if b"2 documents" in line and b"BIO" in line)
    table = b"\n".join(lines[start:])
    assert b"MEN\\xdc" in table if name == "ascii" else b"MEN\xdc" in table
    assert b"\\u5408\\u8a08" in table
    # Predictions are UTF-8 on any terminal, and drawings have names that any file system takes.
    arguments = ["predict", data, "--data.format=jsonl", "--model", folder / "export", "--draw", tmp_path / "drawn"]
    code, out, err = run(arguments, terminal)
    assert code == 0, err
    pages = [json.loads(line) for line in out.decode("utf-8").splitlines()]
    assert [page["document"] for page in pages] == ["test-é-図-0", "test-é-図-1"]
    assert pages[0]["words"][1]["text"] == "合計"
    assert len(list((tmp_path / "drawn").iterdir())) == 2
    code, out, err = run(["evaluate", data, "--data.format=jsonl", "--model", folder / "export"], terminal)
    assert code == 0, err
    assert "合計" in json.loads(out.decode("utf-8"))["by_entity"]


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_stream_that_is_closed_is_no_fault(closed: str, tmp_path: Path) -> None:
    data = corpus(tmp_path / "data")
    line = f'exec "$@" {closed}>&-'
    for arguments in (["data", "check", str(data), "--data.format=jsonl"], ["config", "schema", "settings"]):
        command = ["bash", "-c", line, "bash", sys.executable, "-m", "layoutner", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False)


# What is opened by these is no text file, or not opened in the sense of Python's open().
NO_TEXT = {"os", "Image", "opener", "output"}


def unencoded(tree: ast.AST) -> list[int]:
    """Lines that read or write text in whatever encoding the locale has."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute):
            name, receiver = node.func.attr, getattr(node.func.value, "id", "")
        else:
            name, receiver = getattr(node.func, "id", ""), ""
            if name != "open":  # a function of ours, such as read_text of data/files.py
                continue
        named = {keyword.arg for keyword in node.keywords}
        values = [value.value for value in node.args if isinstance(value, ast.Constant)]
        binary = any(isinstance(value, str) and re.fullmatch("[rwxa+]*b[rwxa+]*", value) for value in values)
        opens = name in ("read_text", "write_text") or (name == "open" and receiver not in NO_TEXT and not binary)
        decodes = receiver == "subprocess" and bool(named & {"text", "universal_newlines"})
        if (opens or decodes) and "encoding" not in named:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_read_or_written_in_the_encoding_of_the_locale(path: Path) -> None:
    assert unencoded(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_an_encoding_that_is_not_given_would_be_found() -> None:
    for line in ("p.read_text()", "p.open()", "open(p, 'a')", "p.write_text(x)", "subprocess.run(c, text=True)"):
        assert unencoded(ast.parse(line)) == [1]
    for line in (
        "p.open('rb')",
        "p.read_text(encoding='utf-8')",
        "Image.open(p)",
        "subprocess.run(c)",
        "os.open(p, 0)",
    ):
        assert unencoded(ast.parse(line)) == []
