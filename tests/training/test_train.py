"""Whole runs through the real launchers: what they write, what they compute, how they fail."""

import json
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from layoutner.distributed.clock import PARTS
from layoutner.files.artefact import FileEntry
from layoutner.objectives.errors import KINDS, Errors
from layoutner.planning.schedule import plan_schedule
from layoutner.settings.tree import load
from layoutner.training.checkpoint_files import Manifest
from tests.builders.disk import SMALL_FILES
from tests.builders.forks import fork
from tests.builders.processes import ROOT, free_port, launch, untimed

Arguments = Callable[..., list[str]]


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run_on_two_ranks(
    train_arguments: Arguments, forms: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """`deepspeed --num_gpus 2 --module layoutner train` with everything on, wandb offline."""
    run = tmp_path_factory.mktemp("two") / "run"
    arguments = train_arguments(
        run,
        data__eval=0.25,
        data__test=forms,
        run__eval_every=2,
        schedule__warmup_steps=2,
        wandb__mode="offline",
        wandb__tags="a,b",
    )
    launcher = ["deepspeed", "--num_gpus", 2, "--master_port", free_port(), "--module", "layoutner"]
    done = launch([*launcher, "train", *arguments])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return run, done


@pytest.fixture(scope="module")
def run_on_one_rank(train_arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("one") / "run"
    done = fork(["layoutner", "train", *train_arguments(run, schedule__warmup_steps=2, data__eval=0.25)])
    assert done.returncode == 0, done.stderr[-3000:]
    return run


def test_the_run_folder_is_the_record(
    run_on_two_ranks: tuple[Path, subprocess.CompletedProcess[str]], forms: Path
) -> None:
    run, done = run_on_two_ranks
    settings = tomllib.loads((run / "settings.toml").read_text())
    assert settings["optimizer"]["lr"] == 3e-3
    assert load(str(run / "settings.toml"), {}).data.train == forms
    config = json.loads((run / "ds_config.json").read_text())
    assert (config["train_batch_size"], config["train_micro_batch_size_per_gpu"]) == (8, 2)
    assert config["gradient_accumulation_steps"] == 2
    environment = json.loads((run / "environment.json").read_text())
    assert (environment["world_size"], environment["device"]) == (2, "cpu")
    assert environment["versions"]["deepspeed"].startswith("0.19.")
    assert "batch: 8 windows per step = 2 per micro-batch x 2 gradient accumulation steps x 2 ranks" in done.stdout
    assert done.stdout.count("schedule: 6 optimizer steps") == 1  # rank 0 alone speaks
    assert "before it has started" not in done.stdout + done.stderr  # what DeepSpeed says of every schedule
    assert not list(run.rglob("*.partial"))


def test_every_logged_step_has_the_agreed_metrics(
    run_on_two_ranks: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    lines = metrics(run_on_two_ranks[0])
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    plan = plan_schedule(load(None, {"schedule": {"max_steps": "6", "warmup_steps": "2"}}).schedule, 8, None)
    for line in lines:
        assert line["train/lr"] == pytest.approx(3e-3 * plan.factor(line["step"] - 1), rel=1e-12, abs=0)
        assert line["train/grad_norm"] > 0
        assert (line["train/loss_scale"], line["train/skipped_steps"]) == (1.0, 0)
        assert line["throughput/tokens_per_s"] > 0
        assert line["time/step_s"] > 0
        assert 0 < line["throughput/mfu"] < 20
        assert line["throughput/model_TFLOP_per_s"] > 0
        shares = {part: line[f"share/{part}"] for part in PARTS}
        assert sum(shares.values()) == pytest.approx(1)
        assert min(shares.values()) >= 0
        assert min(shares[part] for part in ("data", "forward", "backward", "communication", "optimizer")) > 0
        assert 0.05 < line["memory/peak_GiB"] < 20
        assert ("eval/f1" in line) == (line["step"] % 2 == 0)
    assert lines[-1]["train/loss"] < lines[0]["train/loss"]


def test_one_and_two_ranks_train_the_same(
    run_on_one_rank: Path, run_on_two_ranks: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    one, two = metrics(run_on_one_rank), metrics(run_on_two_ranks[0])
    for key in ("train/loss", "train/grad_norm", "train/lr"):
        assert [line[key] for line in two] == pytest.approx([line[key] for line in one], rel=1e-4)
    assert two[-1]["eval/loss"] == pytest.approx(one[-1]["eval/loss"], rel=1e-4)


@pytest.mark.slow
def test_any_number_of_ranks_trains_the_same_and_goes_on_from_any_other(
    train_arguments: Arguments, run_on_one_rank: Path, tmp_path: Path
) -> None:
    # 8 windows on 3 ranks, with micro-batches of up to 8: 2 + 3 + 3. Then a rank alone goes on, with all 8 at once.
    arguments = {"schedule__warmup_steps": 2, "data__eval": 0.25, "batch__micro_batch_size": 8}
    run = tmp_path / "run"
    launcher = ["deepspeed", "--num_gpus", 3, "--master_port", free_port(), "--module", "layoutner", "train"]
    done = launch([*launcher, *train_arguments(run, **arguments, schedule__max_steps=3)])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert (
        "batch: 8 windows per step = 1 micro-batch of 2 + 2 of 3 (at most 8), in 1 gradient accumulation step x 3 ranks"
        in said
    )
    assert "so it is 9 = 3 x 1 x 3; a step still has 8 windows" in said
    more = {**arguments, "schedule__max_steps": 6, "run__resume": "must"}
    done = launch(["layoutner", "train", *train_arguments(run, **more)])
    assert done.returncode == 0, done.stderr[-3000:]
    one, three = metrics(run_on_one_rank), metrics(run)
    assert [line["step"] for line in three] == [1, 2, 3, 4, 5, 6]
    for key in ("train/loss", "train/grad_norm", "train/lr"):
        assert three[0][key] == pytest.approx(one[0][key], rel=1e-5)
        # With 2 steps of warm-up the learning rates of steps 1 to 3 are those of a run of 6 steps, too.
        assert [line[key] for line in three] == pytest.approx([line[key] for line in one], rel=1e-4)


def test_measured_steps_compute_the_same_and_are_logged(
    run_on_one_rank: Path, train_arguments: Arguments, tmp_path: Path
) -> None:
    more = {"schedule__warmup_steps": 2, "data__eval": 0.25, "deepspeed__zero_stage": 2, "batch__micro_batch_size": 8}
    more |= {"run__gradient_statistics_every": 2, "run__log_every": 3}
    done = fork(["layoutner", "train", *train_arguments(tmp_path / "run", **more)], ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    lines, usual = metrics(tmp_path / "run"), metrics(run_on_one_rank)
    assert [line["step"] for line in lines] == [2, 3, 4, 6]  # measured, or every third
    assert [any(key.startswith("gradient") for key in line) for line in lines] == [True, False, True, True]
    for line in lines:
        if "train/loss" in line:
            for key in ("train/loss", "train/grad_norm"):
                assert line[key] == pytest.approx(usual[line["step"] - 1][key], rel=1e-4)
            since = [one["train/loss"] for one in usual[line["step"] - 3 : line["step"]]]
            assert line["train/mean_loss"] == pytest.approx(sum(since) / 3, rel=1e-4)
    names = {name for name in lines[0] if name.startswith("gradient_norm/")}
    assert names == {f"gradient_norm/{layer}" for layer in ("embeddings", "layer.0", "layer.1", "head")}
    # Step 2 has the weights of step 1, whose learning rate is 0, so its gradient is that of other micro-batches alone.
    for line, expected in ((lines[0], usual[1]), (lines[3], lines[3])):
        norm = sum(line[name] ** 2 for name in names) ** 0.5
        assert norm == pytest.approx(expected["train/grad_norm"], rel=1e-6)
    for line in (lines[0], lines[2], lines[3]):
        assert line["gradient/window_variance"] > 0
        assert all(0 < line[f"update_ratio/{name.partition('/')[2]}"] < 0.1 for name in names)


def test_scores_are_those_of_the_test_split_with_the_best_checkpoint(
    run_on_two_ranks: tuple[Path, subprocess.CompletedProcess[str]], forms: Path
) -> None:
    run, _ = run_on_two_ranks
    scores = json.loads((run / "scores.json").read_text())
    assert (scores["split"], scores["scheme"], scores["box_level"]) == ("test", "BIO", "word")
    assert scores["counts"]["documents"] == 8
    evaluated = [line for line in metrics(run) if "eval/f1" in line]
    best = max(evaluated, key=lambda line: (line["eval/f1"], -line["eval/loss"]))
    assert scores["checkpoint"] == {"step": best["step"], "by": "eval f1"}
    again = fork(["layoutner", "evaluate", "--model", run / "export", "--input", forms])
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    # Another number of windows a forward, so sums in another order; the tags are the same.
    assert found.pop("loss") == pytest.approx(scores.pop("loss"), rel=1e-5)
    assert found["field_accuracy"]["fields"] > 0
    assert {**found, "checkpoint": scores["checkpoint"], "format_version": 1} == scores


def test_errors_are_those_of_the_scored_pages(
    run_on_two_ranks: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run, _ = run_on_two_ranks
    scores, errors = json.loads((run / "scores.json").read_text()), Errors.read(run / "errors.json")
    assert (errors.split, errors.documents) == ("test", 8)
    assert sum(map(sum, errors.confusion)) == sum(one.words for one in errors.bins) == scores["counts"]["words"]
    totals = {kind: sum(row[kind] for row in errors.kinds.values()) for kind in KINDS}
    assert sum(totals.values()) - totals["spurious"] == scores["counts"]["entities"]
    assert sum(totals.values()) - totals["missed"] == scores["counts"]["predicted_entities"]
    for kind, row in scores["by_entity"].items():
        assert errors.kinds[kind]["correct"] == round(row["recall"] * row["entities"])
    assert all(page.image is not None for page in errors.pages)
    assert (run / "plan.txt").read_text().strip() in untimed((run / "run.log").read_text())


def test_wandb_runs_once_and_its_id_is_kept(
    run_on_two_ranks: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run, _ = run_on_two_ranks
    identity = (run / "wandb_run_id").read_text()
    offline = [folder.name for folder in (run / "wandb").glob("offline-run-*")]
    assert len(offline) == 1
    assert offline[0].endswith(identity)


@pytest.mark.slow
def test_torchrun_at_zero_3_in_bf16(train_arguments: Arguments, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = train_arguments(run, deepspeed__zero_stage=3, precision__dtype="bf16", data__eval=0.25)
    command = ["torchrun", "--nproc-per-node", 2, "--master-port", free_port(), "-m", "layoutner", "train"]
    done = launch([*command, *arguments])
    assert done.returncode == 0, done.stderr[-3000:]
    lines = metrics(run)
    assert lines[-1]["train/loss"] < lines[0]["train/loss"]
    scores = json.loads((run / "scores.json").read_text())
    assert scores["split"] == "eval"
    assert scores["f1"] == pytest.approx(lines[-1]["eval/f1"], abs=1e-12)


@pytest.mark.parametrize("stage", [0, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(stage: int, train_arguments: Arguments, tmp_path: Path) -> None:
    more = {"deepspeed__zero_stage": stage, "model__dropout": 0.1, "schedule__max_steps": 7, "run__save_every": 3}
    more["run__gradient_statistics_every"] = 2
    more["run__keep_checkpoints"] = 0
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert fork(["layoutner", "train", *train_arguments(whole, **more)]).returncode == 0
    # The step-3 checkpoint of the whole run, in a folder of its own, as a killed run would leave it.
    (parted / "checkpoints").mkdir(parents=True)
    (whole / "checkpoints" / "step-000003").rename(parted / "checkpoints" / "step-000003")
    (parted / "metrics.jsonl").write_text("".join((whole / "metrics.jsonl").read_text().splitlines(True)[:5]) + '{"st')
    done = fork(["layoutner", "train", *train_arguments(parted, **more, run__resume="auto")])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resumed from" in done.stdout
    ours, theirs = metrics(parted), metrics(whole)
    assert [line["step"] for line in ours] == [1, 2, 3, 4, 5, 6, 7]
    for key in ("train/loss", "train/grad_norm", "train/lr"):
        assert [line[key] for line in ours] == [line[key] for line in theirs]  # bit for bit, dropout on
    variances = [line.get("gradient/window_variance") for line in ours]
    assert [variance is not None for variance in variances] == [step % 2 == 0 for step in range(1, 8)]
    # Averages over steps from before and after.
    noise = [[line.get("gradient/noise_scale_windows") for line in lines] for lines in (ours, theirs)]
    assert noise[0] == noise[1]
    assert any(noise[0][3:])
    last = "checkpoints/step-000007/model.safetensors"
    assert (parted / last).read_bytes() == (whole / last).read_bytes()


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_other_families_train_and_export(
    family: str, train_arguments: Arguments, forms: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = train_arguments(run, family, schedule__max_steps=2, data__scheme="BIOES", data__test=forms)
    done = fork(["layoutner", "train", *arguments])
    assert done.returncode == 0, done.stderr[-3000:]
    scores = json.loads((run / "scores.json").read_text())
    assert (scores["split"], scores["scheme"], scores["counts"]["documents"]) == ("test", "BIOES", 8)


def test_checkpoints_kept_are_the_newest_and_the_best(train_arguments: Arguments, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = {"schedule__max_steps": 6, "run__save_every": 2, "run__keep_checkpoints": 2, "optimizer__lr": 1e-30}
    # At such a learning rate nothing changes: of equal checkpoints the first stays the best.
    rhythm = {"run__log_every": 4, "data__eval": 0.25, "run__eval_every": 3}
    done = fork(["layoutner", "train", *train_arguments(run, **more, **rhythm)])
    assert done.returncode == 0, done.stderr[-3000:]
    kept = sorted(folder.name for folder in (run / "checkpoints").glob("step-*"))
    assert kept == ["step-000003", "step-000004", "step-000006"]
    assert json.loads((run / "scores.json").read_text())["checkpoint"]["step"] == 3
    # The last step is logged whatever the rhythm.
    assert [line["step"] for line in metrics(run) if "train/loss" in line] == [4, 6]
    assert [line["step"] for line in metrics(run) if "eval/f1" in line] == [3, 6]


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"data__train": "/nowhere"}, "data.train = /nowhere: no such file or folder"),
    ({"model__name_or_path": "/nowhere"}, "it has no config.json"),
    ({"data__max_length": 512}, "has positions for 256 tokens"),
    ({"data__eval": "/nowhere"}, "data.eval = /nowhere"),
    ({"optimizer__lr": "fast"}, "optimizer.lr = 'fast'"),
    ({"deepspeed__preset": "zero9"}, "no such file or preset"),
    ({"run__resume": "must"}, "holds no complete checkpoint"),
    ({"run__resume": "/nowhere"}, "not a complete layoutner checkpoint"),
    ({"run__output_dir": "/proc/nowhere"}, "cannot be written"),
    ({"deepspeed__preset": "PRESET"}, "did you mean 'stage'?"),
    ({"optimizer__lr": 1e30, "optimizer__max_grad_norm": 0}, "training stops before the weights are corrupted"),
]


@pytest.fixture(scope="module")
def refusals(train_arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str]]:
    """Exit code and standard error of each, out of one process."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "preset.json").write_text('{"zero_optimization": {"stgae": 2}}')
    lines = []
    for number, (more, _) in enumerate(REFUSED):
        given = {key: folder / "preset.json" if value == "PRESET" else value for key, value in more.items()}
        lines.append(["train", *train_arguments(folder / str(number), **given)])
    (folder / "lines.json").write_text(json.dumps(lines))
    done = fork([ROOT / "tests" / "workers" / "refusals.py", folder / "lines.json"])
    assert done.returncode == 0, done.stderr[-3000:]
    return [(code, said) for code, said in json.loads(done.stdout.splitlines()[-1])]


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=lambda number: ",".join(REFUSED[number][0]))
def test_bad_input_gets_one_clear_message(number: int, refusals: list[tuple[int, str]]) -> None:
    code, said = refusals[number]
    assert code == 2
    assert REFUSED[number][1] in said
    assert "layoutner: error: " in said
    assert "Traceback" not in said


def test_a_folder_with_checkpoints_is_not_trained_over(run_on_one_rank: Path, train_arguments: Arguments) -> None:
    before = sorted(run_on_one_rank.rglob("*"))
    settings = (run_on_one_rank / "settings.toml").read_bytes()
    done = fork(["layoutner", "train", *train_arguments(run_on_one_rank, optimizer__lr=1)])
    assert done.returncode == 2
    assert "run.resume = auto goes on from there" in done.stderr
    assert sorted(run_on_one_rank.rglob("*")) == before
    assert (run_on_one_rank / "settings.toml").read_bytes() == settings


def test_a_checkpoint_of_another_meaning_is_not_resumed(run_on_one_rank: Path, train_arguments: Arguments) -> None:
    arguments = train_arguments(run_on_one_rank, run__resume="auto", batch__global_batch_size=4, data__eval=0.25)
    done = fork(["layoutner", "train", *arguments])
    assert done.returncode == 2
    assert "global_batch_size = 8 there, 4 here" in done.stderr


def test_a_full_disk_is_said_and_loses_nothing(train_arguments: Arguments, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = {"run__save_every": 1, "run__keep_checkpoints": 0, "schedule__max_steps": 2}
    assert fork(["layoutner", "train", *train_arguments(run, **more)]).returncode == 0
    before = {file: file.read_bytes() for file in (run / "checkpoints").rglob("*") if file.is_file()}
    # No file may grow past 256 KiB from here on: the next checkpoint cannot be written.
    arguments = train_arguments(run, **{**more, "schedule__max_steps": 4}, run__resume="auto")
    done = fork(["-c", SMALL_FILES, 256 * 1024, "train", *arguments])
    assert done.returncode == 2
    assert "step-000003: could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    for file, content in before.items():
        assert file.read_bytes() == content
    done = fork(["layoutner", "train", *arguments])
    assert done.returncode == 0, done.stderr[-2000:]
    assert "resumed from" in done.stdout
    assert not list(run.rglob("*.partial"))


def test_a_run_that_starts_from_another_runs_checkpoint(
    run_on_one_rank: Path, train_arguments: Arguments, tmp_path: Path
) -> None:
    run, source = tmp_path / "run", run_on_one_rank / "checkpoints" / "step-000006"
    more = {"schedule__warmup_steps": 2, "data__eval": 0.25, "run__resume": source}
    done = fork(["layoutner", "train", *train_arguments(run, **more, schedule__max_steps=8, optimizer__lr=1e-9)])
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((run / "scores.json").read_text())["checkpoint"]["step"] == 8  # the one it has itself
    for changed in ({"optimizer__betas": "0.5,0.6"}, {"data__stride": 8}, {"data__eval": 0.5}):
        done = fork(["layoutner", "train", *train_arguments(tmp_path / "x", **{**more, **changed})])
        assert done.returncode == 2
        assert "cannot be resumed by this run" in done.stderr


@pytest.mark.gpu
def test_fp16_on_a_gpu(train_arguments: Arguments, forms: Path, tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    run = tmp_path / "run"
    arguments = train_arguments(run, precision__dtype="fp16", schedule__max_steps=20, data__test=forms)
    done = launch(["deepspeed", "--num_gpus", 1, "--module", "layoutner", "train", *arguments], DS_ACCELERATOR="cuda")
    assert done.returncode == 0, done.stderr[-3000:]
    assert metrics(run)[-1]["train/loss"] < metrics(run)[0]["train/loss"]


@pytest.mark.slow
def test_lamb_on_two_ranks_goes_on_alone_as_if_it_had_always_been(train_arguments: Arguments, tmp_path: Path) -> None:
    given = {
        "optimizer__name": "lamb",
        "optimizer__lr": 0.03,
        "optimizer__layer_decay": 0.9,
        "schedule__shape": "cosine",
        "schedule__max_steps": 6,
        "model__gradient_checkpointing": True,
    }
    whole = fork(["layoutner", "train", *train_arguments(tmp_path / "whole", **given)])
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert "optimizer: lamb, peak learning rate 0.03; the learning rate of each layer is 0.9" in whole.stdout
    config = json.loads((tmp_path / "whole" / "ds_config.json").read_text())
    assert ("optimizer" in config, "scheduler" in config) == (False, False)
    run = tmp_path / "run"
    short = {**given, "deepspeed__zero_stage": 2}
    first = fork(["layoutner", "train", *train_arguments(run, **short, run__save_every=3)], ranks=2)
    assert first.returncode == 0, first.stderr[-3000:]
    for step in (4, 5, 6):
        for folder in (run / "checkpoints").glob(f"step-*{step}"):
            shutil.rmtree(folder)
    second = fork(["layoutner", "train", *train_arguments(run, **given, deepspeed__zero_stage=3, run__resume="must")])
    assert second.returncode == 0, second.stderr[-3000:]
    one, other = metrics(tmp_path / "whole"), metrics(run)
    for key in ("train/loss", "train/grad_norm", "train/lr"):
        assert [line[key] for line in other] == pytest.approx([line[key] for line in one], rel=1e-4)


def test_a_run_that_no_longer_improves_ends_early(train_arguments: Arguments, tmp_path: Path) -> None:
    given = {"data__eval": 0.25, "run__eval_every": 1, "run__patience": 2, "optimizer__lr": 1e-30}
    run = tmp_path / "run"
    done = fork(["layoutner", "train", *train_arguments(run, **given, schedule__max_steps=20)])
    assert done.returncode == 0, done.stderr[-3000:]
    # Nothing changes, so the first evaluation stays the best, and two more are waited for.
    assert [line["step"] for line in metrics(run)] == [1, 2, 3]
    assert "run.patience = 2: no better score since step 1" in done.stdout
    assert (run / "checkpoints" / "step-000003").is_dir()
    again = fork(["layoutner", "train", *train_arguments(run, **given, schedule__max_steps=20, run__resume="auto")])
    assert again.returncode == 0, again.stderr[-3000:]
    assert [line["step"] for line in metrics(run)] == [1, 2, 3]  # it is over


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"run__patience": 2, "run__eval_every": 0}, "patience = 2 counts evaluations"),
        ({"run__patience": 2}, "compares scores on data.eval, and there is none"),
    ],
)
def test_patience_without_scores_is_refused(
    given: dict[str, Any], said: str, train_arguments: Arguments, tmp_path: Path
) -> None:
    done = fork(["layoutner", "train", *train_arguments(tmp_path / "run", **given)])
    assert done.returncode == 2
    assert said in done.stderr


def test_everything_on_computes_what_everything_off_does(train_arguments: Arguments, tmp_path: Path) -> None:
    given = {"model__dropout": 0.1, "optimizer__name": "lars", "optimizer__lr": 1, "optimizer__trust_coefficient": 0.02}
    on = {
        "deepspeed__zero_stage": 2,
        "batch__micro_batch_size": 8,
        "batch__micro_batch_tokens": 300,
        "model__gradient_checkpointing": True,
    }
    off = {"batch__micro_batch_size": 1, "model__attention": "eager"}  # no two windows are ever computed together
    runs = []
    for name, ranks, more in (("on", 2, on), ("off", 0, off)):
        done = fork(["layoutner", "train", *train_arguments(tmp_path / name, **given, **more)], ranks=ranks)
        assert done.returncode == 0, done.stderr[-3000:]
        runs.append(metrics(tmp_path / name))
    for key in ("train/loss", "train/grad_norm"):
        assert [line[key] for line in runs[0]] == pytest.approx([line[key] for line in runs[1]], rel=1e-6)
    assert runs[0][-1]["train/loss"] < 0.99 * runs[0][0]["train/loss"]  # the weights have moved


@pytest.mark.parametrize(
    ("kind", "average_decay"), [("master", 0), pytest.param("average", 0.5, marks=pytest.mark.slow)]
)
def test_a_checkpoint_whose_fp32_weights_are_anothers_is_refused(
    kind: str, average_decay: float, train_arguments: Arguments, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    given = {"optimizer__average_decay": average_decay}
    done = fork(["layoutner", "train", *train_arguments(run, **given, schedule__max_steps=2)])
    assert done.returncode == 0, done.stderr[-3000:]
    checkpoint = run / "checkpoints" / "step-000002"
    saved = load_file(checkpoint / "optimizer.safetensors")
    one, other = (f"{kind}/layoutlm.encoder.layer.{layer}.output.dense.weight" for layer in (0, 1))
    saved[one], saved[other] = saved[other], saved[one]
    save_file(saved, checkpoint / "optimizer.safetensors")
    files = {
        name: FileEntry.of(checkpoint / name) for name in ("model.safetensors", "optimizer.safetensors", "state.json")
    }
    Manifest(files=files).write(checkpoint / "manifest.json")
    more = train_arguments(run, **given, schedule__max_steps=4, run__resume="auto")
    done = fork(["layoutner", "train", *more])
    assert done.returncode == 2
    assert "its fp32 weights of layoutlm.encoder.layer.0.output.dense.weight are not those of" in done.stderr


# Otherwise as `run_on_one_rank`.
AVERAGING: dict[str, Any] = {"optimizer__average_decay": 0.5, "schedule__warmup_steps": 2, "data__eval": 0.25}


@pytest.fixture(scope="module")
def averaging_run(
    train_arguments: Arguments, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    run = tmp_path_factory.mktemp("averaging") / "run"
    rhythm = {"run__eval_every": 1, "run__save_every": 3, "run__keep_checkpoints": 0}
    done = fork(["layoutner", "train", *train_arguments(run, **AVERAGING, **rhythm)])
    assert done.returncode == 0, done.stderr[-3000:]
    return run, done


def test_averaged_weights_are_scored_and_exported_and_train_nothing_else(
    averaging_run: tuple[Path, subprocess.CompletedProcess[str]], run_on_one_rank: Path
) -> None:
    run, done = averaging_run
    for key in ("train/loss", "train/grad_norm"):
        assert [line[key] for line in metrics(run)] == [line[key] for line in metrics(run_on_one_rank)]
    assert metrics(run)[-1]["eval/loss"] != metrics(run_on_one_rank)[-1]["eval/loss"]
    for step in (3, 6):
        checkpoint = run / "checkpoints" / f"step-{step:06d}"
        weights, optimizer = (load_file(checkpoint / f"{name}.safetensors") for name in ("model", "optimizer"))
        trained = {key.removeprefix("average/") for key in optimizer if key.startswith("average/")}
        assert trained == {key.removeprefix("master/") for key in optimizer if key.startswith("master/")}
        assert all(weights[name].equal(optimizer[f"average/{name}"]) for name in trained)
        assert not any(weights[name].equal(optimizer[f"master/{name}"]) for name in trained if "dense.weight" in name)
        match = json.loads((checkpoint / "state.json").read_text())["must_match"]
        assert "average_decay" not in match["optimizer"]
    # The best of the averages was chosen, and is what the scores are of.
    scores = json.loads((run / "scores.json").read_text())
    best = scores["checkpoint"]["step"]
    line = max(metrics(run), key=lambda line: (line["eval/f1"], -line["eval/loss"]))
    assert (line["step"], line["eval/f1"]) == (best, scores["f1"])
    assert line["eval/loss"] == pytest.approx(scores["loss"], rel=1e-5)
    chosen = run / "checkpoints" / f"step-{best:06d}" / "model.safetensors"
    assert (run / "export" / "model.safetensors").read_bytes() == chosen.read_bytes()
    assert "the weights are averaged with decay 0.5" in done.stdout
    assert f"step-{best:06d}: its weights are averages, with decay 0.5, not the last weights" in done.stdout


@pytest.mark.slow
def test_the_average_goes_on_at_another_stage_and_on_other_ranks(
    averaging_run: tuple[Path, subprocess.CompletedProcess[str]], train_arguments: Arguments, tmp_path: Path
) -> None:
    source = averaging_run[0] / "checkpoints" / "step-000003"
    given = {**AVERAGING, "deepspeed__zero_stage": 3, "run__eval_every": 1, "run__resume": source}
    done = fork(["layoutner", "train", *train_arguments(tmp_path / "run", **given)], ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "holds no average" not in done.stdout
    ours, theirs = (
        load_file(run / "checkpoints" / "step-000006" / "model.safetensors")
        for run in (tmp_path / "run", averaging_run[0])
    )
    for name, weight in theirs.items():
        assert (ours[name].float() - weight.float()).norm() <= 1e-4 * weight.float().norm() + 1e-6
    one, other = metrics(averaging_run[0])[3:], metrics(tmp_path / "run")
    for key in ("train/loss", "eval/loss"):
        assert [line[key] for line in other] == pytest.approx([line[key] for line in one], rel=1e-4)


@pytest.mark.slow
def test_averaging_may_be_switched_off_and_on_again(
    averaging_run: tuple[Path, subprocess.CompletedProcess[str]],
    run_on_one_rank: Path,
    train_arguments: Arguments,
    tmp_path: Path,
) -> None:
    source, run = averaging_run[0] / "checkpoints" / "step-000003", tmp_path / "run"
    off = {**AVERAGING, "optimizer__average_decay": 0, "run__resume": source}
    done = fork(["layoutner", "train", *train_arguments(run, **off)])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "optimizer.average_decay 0.5 -> 0" in done.stdout
    assert "is dropped, as optimizer.average_decay = 0" in done.stdout
    assert "its weights are averages" not in done.stdout
    assert [line["train/loss"] for line in metrics(run)] == [
        line["train/loss"] for line in metrics(run_on_one_rank)[3:]
    ]
    last = "checkpoints/step-000006/optimizer.safetensors"
    plain = load_file(run / last)
    assert not any(key.startswith("average/") for key in plain)

    on = {**AVERAGING, "run__resume": run / "checkpoints" / "step-000006", "schedule__max_steps": 7}
    done = fork(["layoutner", "train", *train_arguments(tmp_path / "on", **on)])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "holds no average of the weights: it starts at the weights of the checkpoint" in done.stdout
    after = load_file(tmp_path / "on" / "checkpoints" / "step-000007" / "optimizer.safetensors")
    for key in plain:
        if key.startswith("master/"):
            expected = 8 / 17 * plain[key] + 9 / 17 * after[key]  # after 7 updates the decay is 8 / 17
            assert (after[key.replace("master/", "average/")] - expected).norm() <= 1e-6 * expected.norm() + 1e-9
