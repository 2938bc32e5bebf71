"""A run calibrates the probabilities of its export on data.eval, and nothing else changes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from layoutner import load_settings, train
from layoutner.inference.export import export
from layoutner.inference.labeller import Labeller
from layoutner.objectives.errors import Errors
from layoutner.reports.report import report_runs
from layoutner.runs import calibration as module
from layoutner.training.checkpoint_files import complete_checkpoints
from tests.builders.forks import fork
from tests.builders.processes import call

Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def runs(forms: Path, train_arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with the same steps: with data.eval on one and on two ranks, without data.test, and without data.eval."""
    folder = tmp_path_factory.mktemp("runs")
    for name, ranks, more in (
        ("one", 1, {"data__eval": 0.25, "data__test": forms}),
        ("two", 2, {"data__eval": 0.25, "data__test": forms}),
        ("eval-only", 1, {"data__eval": 0.25}),
        ("test-only", 1, {"data__test": forms}),
    ):
        done = fork(["layoutner", "train", *train_arguments(folder / name, **more)], ranks=ranks)
        assert done.returncode == 0, done.stderr
    return folder


def temperature(export: Path) -> float:
    found: float = json.loads((export / "layoutner.json").read_text())["temperature"]
    return found


def test_a_run_stores_the_temperature_in_its_export(runs: Path) -> None:
    found = json.loads((runs / "one" / "calibration.json").read_text())
    assert found["temperature"] != 1.0
    assert temperature(runs / "one" / "export") == found["temperature"]
    assert found["loss"][1] < found["loss"][0]
    assert temperature(runs / "two" / "export") == pytest.approx(found["temperature"], rel=1e-3)
    assert temperature(runs / "eval-only" / "export") == pytest.approx(found["temperature"], rel=1e-3)
    assert temperature(runs / "test-only" / "export") == 1.0
    assert not (runs / "test-only" / "calibration.json").exists()


def test_scores_do_not_depend_on_it(
    runs: Path, forms: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(runs / "one" / "export", tmp_path / "raw")
    preprocessing = json.loads((tmp_path / "raw" / "layoutner.json").read_text())
    del preprocessing["temperature"]  # as an older layoutner wrote it
    (tmp_path / "raw" / "layoutner.json").write_text(json.dumps(preprocessing))
    told = {}
    for name, model in (("raw", tmp_path / "raw"), ("calibrated", runs / "one")):
        code, out, _ = call(capsys, "evaluate", forms, "--model", model)
        assert code == 0
        told[name] = json.loads(out)
        assert call(capsys, "predict", forms, "--model", model, "--output", tmp_path / f"{name}.jsonl")[0] == 0
    assert told["raw"] == told["calibrated"]
    raw, calibrated = (
        [word for line in (tmp_path / f"{name}.jsonl").read_text().splitlines() for word in json.loads(line)["words"]]
        for name in ("raw", "calibrated")
    )
    assert [word["label"] for word in raw] == [word["label"] for word in calibrated]
    assert any(abs(one["probability"] - two["probability"]) > 0.01 for one, two in zip(raw, calibrated, strict=True))


def test_the_errors_have_the_probabilities_of_the_export(runs: Path) -> None:
    found = json.loads((runs / "eval-only" / "calibration.json").read_text())
    errors = Errors.read(runs / "eval-only" / "errors.json")
    for one, other in zip(errors.bins, found["after"], strict=True):
        assert (one.words, one.correct) == (other["words"], other["correct"])
        assert one.probability == pytest.approx(other["probability"], abs=1e-3)


def test_pages_of_data_eval_are_labelled_once(runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    passes: list[str] = []

    def counted(self: Labeller, documents: object, split: str, *args: object, **more: object) -> object:
        passes.append(split)
        return evaluate(self, documents, split, *args, **more)  # type: ignore[arg-type]

    evaluate = Labeller.evaluate
    monkeypatch.setattr(module.Labeller, "evaluate", counted)
    for name, expected in (("eval-only", ["eval"]), ("one", ["eval", "test"]), ("test-only", ["test"])):
        tree = (runs / name / "settings.toml").read_text().replace(str(runs / name), str(tmp_path / name))
        (tmp_path / f"{name}.toml").write_text(tree)
        passes.clear()
        train(load_settings(tmp_path / f"{name}.toml", {"schedule": {"max_steps": 1}}))
        assert passes == expected


def test_an_export_of_the_checkpoint_has_it_and_one_of_another_has_not(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "one", tmp_path / "run")
    export(tmp_path / "run", tmp_path / "same")
    assert temperature(tmp_path / "same") == temperature(runs / "one" / "export")
    (checkpoint,) = complete_checkpoints(tmp_path / "run")[-1:]
    found = json.loads((tmp_path / "run" / "calibration.json").read_text())
    (tmp_path / "run" / "calibration.json").write_text(json.dumps({**found, "step": found["step"] + 1}))
    export(checkpoint, tmp_path / "other")
    assert temperature(tmp_path / "other") == 1.0


def test_the_report_shows_reliability_before_and_after(runs: Path, tmp_path: Path) -> None:
    report_runs([runs / "one", runs / "test-only"], tmp_path / "report.html", 2, 64)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("words of data.eval, on which temperature") == 1
