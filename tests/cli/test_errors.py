"""Every class of error, as a user meets it: what provokes it, the class that is raised, the exit code."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from layoutner import __version__, cli
from layoutner.errors import CheckpointError, DataError, LayoutnerError, ModelError, SettingsError, require_all
from tests.builders.forks import fork_apart
from tests.builders.processes import HANGS_S, call, launch

Arguments = Callable[..., list[str]]

# `layoutner ...` that says on standard output which class its error is of.
NAMES_THE_CLASS = """
import sys
from layoutner import cli
from layoutner.console import ending

report = ending.report

def report_class(error, joined=False):
    print("raised", type(error).__name__, flush=True)
    return report(error, joined)

cli.report = ending.report = report_class
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["train", "--optimizer.lr=fast"], SettingsError),
        (["train", "--deepspeed.preset=zero-9", "--data.train={forms}", "--model.name_or_path=a/b"], SettingsError),
        (["data", "check", "{nothing}"], DataError),
        (["predict", "{forms}", "--model", "{forms}"], ModelError),
        (["export", "{forms}", "{nothing}"], CheckpointError),
        # Problems of two kinds, told together.
        (["train", "--data.train={nothing}", "--deepspeed.preset=zero-9"], LayoutnerError),
    ],
)
def test_the_class_of_an_error_says_what_is_wrong(
    arguments: list[str],
    kind: type[LayoutnerError],
    forms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raised: list[BaseException] = []
    report = cli.report
    monkeypatch.setattr(cli, "report", lambda error: (raised.append(error), report(error))[1])
    monkeypatch.chdir(tmp_path)
    code, _, said = call(capsys, *(text.format(forms=forms, nothing=tmp_path / "nothing") for text in arguments))
    assert [type(error) for error in raised] == [kind]
    assert (code, said) == (2, f"layoutner: error: {raised[0]}\n")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_a_training_that_diverged(train_arguments: Arguments, tmp_path: Path) -> None:
    more = {"optimizer__lr": 1e30, "optimizer__max_grad_norm": 0}
    arguments = train_arguments(tmp_path / "run", **more)
    done = launch(["python", "-c", NAMES_THE_CLASS, "train", *arguments])
    assert (done.returncode, re.findall("raised (.*)", done.stdout)) == (2, ["TrainingDiverged"]), done.stderr


@pytest.mark.slow
def test_ranks_of_other_settings_disagree(train_arguments: Arguments, tmp_path: Path) -> None:
    by_rank = "import os\nos.environ['LAYOUTNER_OPTIMIZER__LR'] = '0.0' + str(int(os.environ['RANK']) + 1)\n"
    arguments = [one for one in train_arguments(tmp_path / "run") if not one.startswith("--optimizer.lr")]
    for code, out, said in fork_apart(["-c", by_rank + NAMES_THE_CLASS, "train", *arguments]):
        assert (code, re.findall("raised (.*)", out)) == (2, ["RanksDisagree"]), said


@pytest.mark.slow
def test_a_run_that_a_signal_ends_is_preempted(train_arguments: Arguments, tmp_path: Path) -> None:
    arguments = train_arguments(tmp_path / "run", schedule__max_steps=100_000, run__save_every=1)
    command = [sys.executable, "-c", NAMES_THE_CLASS, "train", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + HANGS_S
        while not list(tmp_path.glob("run/checkpoints/step-*")) and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out, said = process.communicate(timeout=HANGS_S)
    assert (process.returncode, re.findall("raised (.*)", out)) == (75, ["Preempted"]), said


def test_a_bug_is_reported_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from layoutner.documents import check

    def fail(*_: object) -> None:
        raise KeyError("no such word")

    monkeypatch.setattr(check, "check", fail)
    code, out, said = call(capsys, "data", "check", tmp_path)
    first, *_, raised, last = said.splitlines()
    assert (code, out) == (70, "")
    assert (first, raised) == ("Traceback (most recent call last):", "KeyError: 'no such word'")
    assert last == f"layoutner: this is a bug of layoutner {__version__}: please report it with the lines above"


def test_problems_of_one_class_are_told_together_in_that_class() -> None:
    def fail(error: Exception) -> Callable[[], object]:
        def check() -> object:
            raise error

        return check

    for errors, kind in (
        ([DataError("a"), DataError("b")], DataError),
        ([DataError("a"), SettingsError("b")], LayoutnerError),
    ):
        with pytest.raises(LayoutnerError, match="^no:\n  - a\n  - b$") as caught:
            require_all("no", map(fail, errors))
        assert caught.type is kind
    with pytest.raises(DataError, match="^no: a\n    - b$"):
        require_all("no", [fail(DataError("a\n  - b")), fail(DataError("a\n  - b"))])
    with pytest.raises(KeyError):  # a bug is not told as a problem
        require_all("no", [fail(KeyError("a"))])
