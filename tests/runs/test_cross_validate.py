"""`layoutner cross-validate`, a fold alone, and checkpoints that the test split chooses."""

import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layoutner.cli import main
from layoutner.runs.folds import summarise
from tests.builders.forks import fork
from tests.builders.processes import free_port, launch

Arguments = Callable[..., list[str]]
SHORT = {"schedule__max_steps": 3, "run__log_every": 1}


def scores(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "scores.json").read_text())
    return found


def losses(run: Path) -> list[float]:
    return [json.loads(line)["train/loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(train_arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Three folds in one process: the folder, and what was printed."""
    folder = tmp_path_factory.mktemp("cross") / "run"
    # run.overwrite is of no consequence for the call that goes on, below, without it.
    arguments = train_arguments(folder, **SHORT, data__folds=3, run__overwrite="true")
    done = fork(["layoutner", "cross-validate", *arguments])
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


def test_every_fold_is_a_run_and_the_scores_are_summed_up(run: tuple[Path, str]) -> None:
    folder, printed = run
    folds = [scores(folder / f"fold-{number}") for number in (1, 2, 3)]
    assert [(fold["split"], fold["counts"]["documents"]) for fold in folds] == [("eval", 8)] * 3
    for number in (1, 2, 3):
        assert f"eval: fold {number} of 3 of the training documents" in printed
        assert (folder / f"fold-{number}" / "export" / "layoutner.json").is_file()
    summary = scores(folder)
    each = [fold["f1"] for fold in folds]
    assert [fold["f1"] for fold in summary["folds"]] == each
    assert [fold["checkpoint"] for fold in summary["folds"]] == [{"step": 3, "by": "eval f1"}] * 3
    assert summary["f1"] == pytest.approx({"mean": statistics.mean(each), "std": statistics.stdev(each)}, rel=1e-12)
    for key in ("documents", "words", "entities", "predicted_entities"):
        assert summary["counts"][key] == sum(fold["counts"][key] for fold in folds)
    assert summary["counts"]["documents"] == 24
    mean, deviation = summary["f1"]["mean"], summary["f1"]["std"]
    assert f"F1 {mean:.4f}, standard deviation {deviation:.4f}\n" in printed
    assert "which inflates the score; run.eval_every = 0 chooses the last" in printed


def test_mean_and_deviation_by_hand() -> None:
    rest = {"precision": 0, "recall": 0, "loss": 0, "checkpoint": {}, "counts": {"words": 2}}
    found = [{"f1": f1, "scheme": "BIO", "box_level": "word", **rest} for f1 in (0.5, 0.7, 0.9)]
    summary = summarise(found)
    assert summary["f1"]["mean"] == pytest.approx(0.7, rel=1e-12)
    assert summary["f1"]["std"] == pytest.approx(0.2, rel=1e-12)  # sqrt((0.04 + 0 + 0.04) / (3 - 1))
    assert summary["counts"] == {"words": 6}


def test_a_fold_alone_computes_what_it_computes_among_the_others(
    run: tuple[Path, str], train_arguments: Arguments, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    done = fork(["layoutner", "train", *train_arguments(alone, **SHORT, data__folds=3, data__fold=2)])
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(alone) == losses(run[0] / "fold-2")
    assert scores(alone) == scores(run[0] / "fold-2")
    # Another fold holds out other pages, so it cannot go on from there.
    arguments = train_arguments(alone, **SHORT, data__folds=3, data__fold=1, run__resume="auto")
    done = fork(["layoutner", "train", *arguments])
    assert done.returncode == 2
    assert "cannot be resumed by this run: training_windows = " in done.stderr


def test_a_second_call_goes_on_with_the_folds_that_are_missing(
    run: tuple[Path, str], train_arguments: Arguments, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    for number in (1, 2, 3):  # the copy lies elsewhere
        file = folder / f"fold-{number}" / "settings.toml"
        file.write_text(file.read_text().replace(str(run[0]), str(folder)))
    shutil.rmtree(folder / "fold-3")
    (folder / "scores.json").unlink()
    more = {**SHORT, "data__folds": 3}
    done = fork(["layoutner", "cross-validate", *train_arguments(folder, **more, run__resume="auto")])
    assert done.returncode == 0, done.stderr[-3000:]
    assert [f"fold {number} of 3: scored already" in done.stdout for number in (1, 2, 3)] == [True, True, False]
    assert scores(folder) == scores(run[0])
    how = {
        "batch__micro_batch_size": 4,
        "run__keep_checkpoints": 1,
        "run__rank_timeout": 50,
        "deepspeed__zero_stage": 1,
        "model__gradient_checkpointing": "true",
    }
    for changed, message in (
        (how, None),  # changes nothing that is computed
        ({"optimizer__lr": 1e-4}, "optimizer.lr = 0.003 there, 0.0001 here"),
        ({"run__eval_every": 1}, "run.eval_every = 100 there, 1 here"),
        (
            {"optimizer__name": "lars"},
            "optimizer.name = adamw there, lars here; optimizer.betas = [0.9, 0.999] there, None here; "
            "optimizer.scale_betas = none there, None here; optimizer.eps = 1e-08 there, None here; "
            "optimizer.momentum = None there, 0.9 here; optimizer.trust_coefficient = None there, 0.001 here",
        ),
    ):
        arguments = train_arguments(folder, **{**more, **changed}, run__resume="auto")
        done = fork(["layoutner", "cross-validate", *arguments])
        assert done.returncode == (2 if message else 0), done.stderr
        assert message is None or f"fold-1 was trained with other settings: {message}; give" in done.stderr
    done = fork(["layoutner", "cross-validate", *train_arguments(folder, **more)])
    assert done.returncode == 2
    assert "fold-1 holds 1 checkpoint(s)" in done.stderr


def test_an_earlier_summary_stays_until_a_new_fold_is_trained(
    run: tuple[Path, str], train_arguments: Arguments, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    arguments = train_arguments(folder, **SHORT, data__folds=3, run__overwrite="true", data__train=tmp_path / "nowhere")
    assert "no such file" in fork(["layoutner", "cross-validate", *arguments]).stderr
    assert scores(folder) == scores(run[0])
    # Scores that no cross-validation wrote stay for good.
    shutil.copyfile(run[0] / "fold-1" / "scores.json", tmp_path / "scores.json")
    arguments = train_arguments(tmp_path, **SHORT, data__folds=3, run__overwrite="true")
    done = fork(["layoutner", "cross-validate", *arguments])
    assert done.returncode == 2
    assert "scores.json was not written by a cross-validation: there is no run in fold-1 next to it" in done.stderr
    assert scores(tmp_path) == scores(run[0] / "fold-1")


@pytest.mark.slow
def test_two_ranks_cross_validate_through_the_launcher(
    run: tuple[Path, str], train_arguments: Arguments, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    launcher = ["deepspeed", "--num_gpus", 2, "--master_port", free_port(), "--module", "layoutner"]
    done = launch([*launcher, "cross-validate", *train_arguments(folder, **SHORT, data__folds=3)])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count(", standard deviation ") == 1  # rank 0 alone speaks
    for number in (1, 2, 3):
        name = f"fold-{number}"
        assert losses(folder / name) == pytest.approx(losses(run[0] / name), rel=1e-4)
    ours, theirs = scores(folder), scores(run[0])
    assert ours["counts"]["documents"] == theirs["counts"]["documents"] == 24
    assert [fold["f1"] for fold in ours["folds"]] == [scores(folder / f"fold-{n}")["f1"] for n in (1, 2, 3)]


def test_a_checkpoint_chosen_by_test_says_so_in_its_score(
    train_arguments: Arguments, forms: Path, tmp_path: Path
) -> None:
    arguments = train_arguments(tmp_path, **SHORT, data__test=forms, data__selection_split="test", run__eval_every=1)
    done = fork(["layoutner", "train", *arguments])
    assert done.returncode == 0, done.stderr[-3000:]
    found = scores(tmp_path)
    assert (found["split"], found["counts"]["documents"]) == ("test", 8)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda line: (line["eval/f1"], -line["eval/loss"]))
    assert found["checkpoint"] == {"step": best["step"], "by": "test f1", "chosen_on_test": True}
    assert found["f1"] == pytest.approx(best["eval/f1"], abs=1e-12)
    assert "note: the checkpoint is chosen by the 8 test pages (data.selection_split = test)" in done.stdout
    assert (
        "  the checkpoint was chosen on these test pages (data.selection_split = test), which inflates it"
        in done.stdout
    )


@pytest.mark.parametrize(
    ("command", "more", "message"),
    [
        ("cross-validate", {}, "data.folds is missing"),
        ("cross-validate", {"data__folds": 3, "data__fold": 1}, "data.fold = 1: cross-validate trains every fold"),
        ("cross-validate", {"data__folds": 3, "data__test": "x"}, "cross-validation scores only the held-out folds"),
        ("cross-validate", {"data__folds": 3, "data__eval": 0.1}, "with folds, a fold is used as eval"),
        ("cross-validate", {"data__folds": 3, "run__resume": "must"}, "run.resume = must: cross-validation takes"),
        ("train", {"data__fold": 1}, "fold = 1 without folds"),
    ],
)
def test_what_is_no_cross_validation_is_refused(
    command: str,
    more: dict[str, object],
    message: str,
    train_arguments: Arguments,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, *train_arguments(tmp_path / "run", **more)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
