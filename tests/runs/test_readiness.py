"""What is wrong with a run, a prediction or an export is said at once, all of it, before torch is imported."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from layoutner.errors import LayoutnerError, SettingsError
from layoutner.runs.readiness import require_ready
from layoutner.settings.tree import load
from layoutner.training.checkpoint_files import MANIFEST_FILE, WEIGHTS_FILE, FileEntry, Manifest, Record, TrainState
from tests.builders.processes import ROOT, call

# The command line, and what it has imported when it ends.
TRACED = """
import sys
from layoutner.cli import main
try:
    main(sys.argv[1:])
finally:
    heavy = ("torch", "transformers", "deepspeed", "wandb", "datasets")
    print("heavy:", *(name for name in heavy if name in sys.modules))
"""


def refused(*arguments: object, code: int = 2) -> str:
    """What is said by a command that ends without torch."""
    command = [sys.executable, "-c", TRACED, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (code, "heavy:"), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a complete checkpoint and an export, as far as their names go."""
    folder = tmp_path / "run"
    checkpoint = folder / "checkpoints" / "step-000003"
    checkpoint.mkdir(parents=True)
    (checkpoint / WEIGHTS_FILE).write_bytes(b"weights")
    Record(state=TrainState(3), engine={}, must_match={}, settings={}, world_size=1).write(checkpoint / "state.json")
    Manifest(files={WEIGHTS_FILE: FileEntry(bytes=7, sha256="")}).write(checkpoint / MANIFEST_FILE)
    (folder / "layoutner.json").write_text("{}")
    return folder


def test_what_is_missing_is_said_in_one_message() -> None:
    for command in (["train"], ["cross-validate", "--data.folds=3"]):
        said = refused(*command)
        assert said.startswith("layoutner: error: this run cannot start:\n")
        assert [line.split()[1] for line in said.splitlines()[1:]] == ["data.train", "model.name_or_path", "the"]
        assert "the schedule has no length: give schedule.epochs, schedule.max_steps or schedule.max_windows" in said


def test_everything_that_needs_no_model_is_said_together(run: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    said = refused(
        "train", f"--data.train={tmp_path}/no-train", f"--data.eval={tmp_path}/no-eval",
        f"--data.labels={tmp_path}/no-labels", f"--model.name_or_path={tmp_path}/folder", "--schedule.max_steps=5",
        "--schedule.warmup_steps=9", "--run.predictions=jsonl", "--deepspeed.preset=zero9", f"--run.output_dir={run}",
    )  # fmt: skip
    expected = [
        "/folder: it has no config.json",
        "schedule.warmup_steps = 9 is more than the 5 optimizer steps",
        "deepspeed.preset = 'zero9': no such file or preset",
        f"data.train = {tmp_path}/no-train: no such file or folder",
        f"data.eval = {tmp_path}/no-eval: no such file or folder",
        f"{tmp_path}/no-labels: cannot be read",
        "run.predictions = jsonl needs data.test",
        "holds 1 checkpoint(s), the newest step-000003: run.resume = auto goes on from there",
    ]
    lines = said.splitlines()
    assert lines[0] == "layoutner: error: this run cannot start:"
    assert len(lines) == 1 + len(expected)
    for line, text in zip(lines[1:], expected, strict=True):
        assert text in line


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"data__folds": 3}, "data.folds = 3 without data.fold"),
        ({"run__resume": "must"}, "run.resume = must, but "),
        ({"run__resume": "/nowhere"}, "run.resume = /nowhere: not a complete layoutner checkpoint"),
        ({"deepspeed__preset": "PRESET"}, "did you mean 'stage'?"),
    ],
)
def test_one_problem_is_one_line(
    more: dict[str, object], text: str, train_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "preset.json").write_text('{"zero_optimization": {"stgae": 2}}')
    given = {key: tmp_path / "preset.json" if value == "PRESET" else value for key, value in more.items()}
    said = refused("train", *train_arguments(tmp_path / "run", **given))
    assert said.startswith("layoutner: error: this run cannot start: ")
    assert len(said.splitlines()) == 1
    assert text in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("format", "lacks", "text"),
    [
        ("hub", "datasets", "data.format = hub needs the package datasets"),
        ("ocr", "pytesseract", "ocr.engine = tesseract needs the package pytesseract"),
        ("jsonl", "tensorboard", "tensorboard.enabled = true: "),
    ],
)
def test_a_package_that_is_missing(format: str, lacks: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, lacks, None)
    with pytest.raises(SettingsError) as found:
        require_ready(load(None, {"data": {"format": format}, "tensorboard": {"enabled": "true"}}))
    assert text in str(found.value)


def test_ranks_are_those_of_the_launcher(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    settings = load(
        None, {"batch": {"global_batch_size": "4", "micro_batch_size": "2"}, "run": {"output_dir": str(run)}}
    )
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank, looks in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(LayoutnerError) as found:
            require_ready(settings)
        assert ("holds 1 checkpoint(s)" in str(found.value)) == looks  # the folder is rank 0's
    monkeypatch.setenv("WORLD_SIZE", "0")
    with pytest.raises(LayoutnerError, match="world size = 0: at least one rank is needed"):
        require_ready(settings)


def test_a_run_that_can_start_is_not_refused(train_arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    tree: dict[str, dict[str, str]] = {}
    for argument in train_arguments(tmp_path / "run"):
        name, _, value = argument.removeprefix("--").partition("=")
        section, key = name.split(".")
        tree.setdefault(section, {})[key] = value
    require_ready(load(None, tree))
    assert not (tmp_path / "run").exists()  # it only looks


def test_folds_that_stand_in_the_way_are_all_named(run: Path, forms: Path) -> None:
    run.rename(run.with_name("x"))
    for fold in ("fold-1", "fold-3"):
        (run / fold / "export").mkdir(parents=True)
        (run / fold / "export" / "mine").touch()
    said = refused("cross-validate", "--data.folds=3", f"--data.train={forms}", f"--run.output_dir={run}")
    assert [f"fold-{number}" in said for number in (1, 2, 3)] == [True, False, True]


def test_a_model_that_is_none_is_refused_with_what_else_is_wrong(run: Path, tmp_path: Path) -> None:
    said = refused("predict", tmp_path / "nothing", "--model", tmp_path)
    assert "`layoutner predict` cannot start:\n" in said
    assert "not a model exported by layoutner (layoutner.json and config.json missing)" in said
    assert f"--input {tmp_path}/nothing: no such file or folder" in said
    assert f"run `layoutner export {run} OUT`" in refused("evaluate", tmp_path, "--model", run)
    assert "no such folder" in refused("predict", tmp_path, "--model", tmp_path / "nothing")
    assert "holds no complete checkpoint" in refused("evaluate", tmp_path, "--checkpoints", tmp_path)


def test_an_export_is_refused_or_made_without_torch(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert "out: already exists" in refused("export", run, tmp_path / "out")
    assert "holds no complete checkpoint" in refused("export", tmp_path / "out", tmp_path / "new")
    assert "no such run folder" in refused("export", tmp_path / "nothing", tmp_path / "new")


def test_a_locale_whose_file_names_are_not_utf_8(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tokenizers library would write to another folder than Python."""
    settings = load(None, {"run": {"output_dir": str(tmp_path / "é")}})
    with pytest.raises(SettingsError) as found:
        require_ready(settings)
    assert "PYTHONUTF8" not in str(found.value)
    monkeypatch.setattr("os.fsencode", lambda path: path.encode("latin-1"))
    with pytest.raises(SettingsError, match="run.output_dir = .*PYTHONUTF8=1"):
        require_ready(settings)


def test_training_says_it_to_every_rank(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("layoutner.console.ending.STAY_S", 0.0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    code, _, err = call(capsys, "train")
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.startswith("layoutner: rank 1: error: this run cannot start: - data.train is missing")
