"""What commands show while they work: bars on a terminal, lines with times elsewhere, nothing with --quiet."""

import argparse
import json
import logging
import os
import re
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from layoutner.console.terminal import Bars, Lines, is_terminal, redrawn, showing
from layoutner.files.lock import Lock
from layoutner.progress import counted, task
from tests.builders.forks import Forks
from tests.builders.processes import call
from tests.builders.terminals import Terminal

Arguments = Callable[..., list[str]]

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( .*)?")
HOSTILE = "[bold]a[/] \x1b]0;owned\x07\x1b[2J \u202egnp.exe \udcff"
SHOWN = "[bold]a[/] \\x1b]0;owned\\x07\\x1b[2J \\u202egnp.exe \\udcff"

logger = logging.getLogger("layoutner.tests")


@pytest.fixture(autouse=True)
def _term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def given(quiet: bool = False, verbose: bool = False) -> argparse.Namespace:
    return argparse.Namespace(quiet=quiet, verbose=verbose)


def run(arguments: list[object], out: Path, err: Path, **environment: str) -> int:
    with Forks(["layoutner", *arguments], streams=(out, err), **environment) as forks:
        (code,) = forks.wait()
        return code


@pytest.fixture(scope="module")
def on_a_terminal(train_arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run whose standard output and error are a terminal: its folder, and what it has written there."""
    folder = tmp_path_factory.mktemp("terminal") / "run"
    more = {"schedule__max_steps": 40, "run__log_every": 20, "data__eval": 0.25, "run__eval_every": 20}
    with Terminal() as terminal:
        code = run(["train", *train_arguments(folder, **more)], terminal.path, terminal.path, TERM="xterm")
        text = terminal.close()
    assert code == 0, text
    return folder, text


def test_a_run_on_a_terminal(on_a_terminal: tuple[Path, str]) -> None:
    folder, text = on_a_terminal
    plan, training, scores, end = (
        text.index(part) for part in ("╭─ plan ", " of 40 steps", "all types", "╭─ finished ")
    )
    assert plan < training < scores < end
    assert re.search(r"epoch \d+, loss \d\.\d+, best eval f1 \d\.\d+, \d+ tokens/s", text)
    assert re.search(r"\d+ of 40 steps.* 0:00:\d\d left", text)
    assert "goodput" in text[end:]
    # The panel wraps long lines.
    assert f"layoutnerpredictPAGES--model{folder}--output" in re.sub(r"[│\s]+", "", text[end:])
    assert text.rstrip().splitlines()[-1].startswith("╰──")  # no bar is left below it
    assert "\x1b[?25l" not in text  # the cursor is never hidden, so whoever kills the run need not show it again
    assert not re.search(r"^\d{4}-\d\d-\d\d ", text, re.MULTILINE)
    log = (folder / "run.log").read_text()
    assert "\x1b" not in log
    assert all(LINE.fullmatch(line) for line in log.splitlines())


def test_a_run_in_a_pipe(train_arguments: Arguments, tmp_path: Path) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    assert run(["train", *train_arguments(tmp_path / "run", schedule__max_steps=2)], out, err) == 0, err.read_text()
    lines = out.read_text().splitlines()
    assert all(LINE.fullmatch(line) for line in lines)
    assert any(re.search(r" step 1/2 .* \d:\d\d:\d\d left; ", line) for line in lines)
    assert "\x1b" not in out.read_text() + err.read_text()
    assert lines[-1].endswith(f"layoutner compare {tmp_path / 'run'} ANOTHER-RUN")


def test_quiet_says_nothing_of_what_goes_well(train_arguments: Arguments, tmp_path: Path) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    arguments = train_arguments(tmp_path / "run", schedule__max_steps=1)
    assert run(["train", "--quiet", *arguments], out, err) == 0
    assert (out.read_text(), err.read_text()) == ("", "")
    assert "step 1/1" not in (tmp_path / "run" / "run.log").read_text()
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["train"], ["cross-validate"], ["noise-scale"], ["critical-batch"], ["demo"], ["sweep", "file"],
        ["data", "build", "pages", "--out", "store"], ["predict", "--model", "m"], ["evaluate", "--model", "m"],
    ],
)  # fmt: skip
def test_quiet_or_verbose(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, *command, "--quiet", "--verbose")
    assert (code, out) == (2, "")
    assert "argument --verbose: not allowed with argument --quiet" in err


def test_bars_are_not_among_the_results(on_a_terminal: tuple[Path, str], tmp_path: Path) -> None:
    """The predictions are in a file, and the bars on the terminal that is standard error; else there are no bars."""
    folder, _ = on_a_terminal
    page = {"page_size": [100, 100], "words": [{"text": "a", "box": [0, 0, 9, 9]}], "document": HOSTILE[:-1]}
    pages = tmp_path / "pages.jsonl"
    pages.write_text(
        "".join(json.dumps({**page, "document": f"{number} {HOSTILE[:-1]}"}) + "\n" for number in range(200))
    )
    command = ["predict", pages, "--model", folder / "export", "--batch", 1]
    with Terminal() as terminal:
        assert run(command, tmp_path / "out", terminal.path, TERM="xterm") == 0
        drawn = terminal.close()
    assert [json.loads(line)["document"][:2] for line in (tmp_path / "out").read_text().splitlines()[:2]] == [
        "0 ",
        "1 ",
    ]
    assert re.search(r"predicting .*\d+ of \d+ batches", drawn)
    pages.write_text(json.dumps(page) + "\n")
    with Terminal() as terminal:
        assert run(command, terminal.path, terminal.path, TERM="xterm") == 0
        mixed = terminal.close()
    assert json.loads(mixed)["document"] == HOSTILE[:-1]


def test_texts_on_a_terminal_are_only_texts() -> None:
    with Terminal(columns=200) as terminal, terminal.open() as stream:
        assert is_terminal(stream)
        with showing(given(), stream), task(HOSTILE, 3, "pages") as begun:
            begun.advance(note=HOSTILE)
            logger.info("%s", HOSTILE)
            logger.info("%s", HOSTILE, extra={"panel": "plan"})
            logger.warning("%s", f"{HOSTILE}\nmore")
            logger.handlers.clear()
        text = terminal.close()
    assert text.count(SHOWN) >= 3
    assert "owned\x07" not in text
    assert "\x1b[2J" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize("columns", [1, 20, 50])
def test_a_narrow_terminal(columns: int) -> None:
    with Terminal(columns) as terminal, terminal.open("ascii") as stream:
        bars = Bars(stream)
        with showing(given(), stream):
            for _ in counted(range(3), "reading the documents", 3, "pages"):
                logger.info("a line that is longer than the terminal is wide, which the terminal wraps")
        bars.close()
        text = terminal.close()
    assert text.count("a line that is longer than the terminal is wide, which the terminal wraps\n") == 3


def test_a_long_task_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as stream, showing(given(), stream), task("reading", 3, "pages") as begun:
        begun.advance()
        monkeypatch.setattr("layoutner.console.terminal.SILENCE_S", 0.0)
        begun.advance()
    (line,) = (tmp_path / "out").read_text().splitlines()
    assert re.fullmatch(r"[\d: -]{19} reading: 2 of 3 pages, 0:00:00 left", line)


def test_a_line_was_just_said(tmp_path: Path) -> None:
    """Of a task that is old enough, nothing is said soon after another message."""
    with (tmp_path / "out").open("w") as stream, showing(given(), stream), task("reading", 3, "pages") as begun:
        begun._since -= 100
        logger.info("something else")
        begun.advance()
    assert len((tmp_path / "out").read_text().splitlines()) == 1


def test_other_ranks_show_warnings_only(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as stream, showing(given(), stream, is_rank_zero=False):
        logger.info("hidden")
        logger.warning("shown %s", HOSTILE)
    (line,) = (tmp_path / "out").read_text().splitlines()
    assert line.endswith(f"shown {SHOWN}")
    assert LINE.fullmatch(line)


def test_work_goes_on_when_nobody_reads(capsys: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream, showing(given(), stream):
        for number in range(3):
            logger.info("line %d", number)
    assert capsys.readouterr() == ("", "")  # not even an error of logging


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with Terminal() as terminal, terminal.open() as stream:
        with showing(given(), stream), task("reading", 3, "pages") as begun:
            begun.advance()
            logger.info("a line")
        text = terminal.close()
    assert LINE.fullmatch(text.removesuffix("\n"))


def test_levels_and_handlers_are_as_before(tmp_path: Path) -> None:
    own, root = logging.getLogger("layoutner"), logging.getLogger()
    before = own.level, list(root.handlers)
    with (tmp_path / "out").open("w") as stream, showing(given(verbose=True), stream):
        assert own.level == logging.DEBUG
        assert isinstance(root.handlers[-1], Lines)
    assert (own.level, list(root.handlers)) == before


def test_watch_ends_with_the_runs(
    on_a_terminal: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = on_a_terminal
    lock = Lock(folder / ".lock")
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            lock.__exit__(None, None, None)

    monkeypatch.setattr("layoutner.cli.runs.time", types.SimpleNamespace(sleep=sleep))
    with lock:
        code, out, err = call(capsys, "watch", folder, "--every", "0.5")
    assert (code, err, looks) == (0, "", [0.5] * 3)
    # Twice: when it began to look, and when something had changed.
    assert [line for line in out.splitlines() if line.startswith(str(folder))] == [
        f"{folder}: running", f"{folder}: finished"
    ]  # fmt: skip
    assert out.count("step 40 of 40") == 2


def test_watch_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "settings.toml is missing" in call(capsys, "watch", tmp_path)[2]
    assert "--every 0: give the seconds" in call(capsys, "watch", tmp_path, "--every", "0")[2]


def test_what_is_drawn_again() -> None:
    with Terminal() as terminal, terminal.open() as stream:
        with redrawn(stream) as show:
            show("step 1\nof 2")
            show("step 2\nof 2")
        text = terminal.close()
    assert text.index("step 1") < text.index("\x1b[1A") < text.rindex("step 2")  # up a line, and over it
    assert "\x1b[?25l" not in text
