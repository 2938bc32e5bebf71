"""What is computed is exact: gradients, learning rates, norms and loss scales, on one and on two ranks."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from layoutner.planning.schedule import plan_schedule
from layoutner.settings.schedule import ScheduleSettings
from tests.builders.forks import fork
from tests.builders.processes import ROOT

WORKER = ROOT / "tests" / "workers" / "steps.py"
SLOW = pytest.mark.slow  # the fast tier measures the same at fewer stages and micro-batch sizes: see FAST of the worker
STAGES = ("0", pytest.param("1", marks=SLOW), "2", "3")
TWO_STAGES = ("0", pytest.param("1", marks=SLOW), "2", pytest.param("3", marks=SLOW))
ONE_STAGE = (pytest.param("0", marks=SLOW), pytest.param("1", marks=SLOW), "2", pytest.param("3", marks=SLOW))
RANKS = (pytest.param(1, marks=SLOW), 2)  # on one rank only in the slow tier
# On 3 ranks, by global batch and largest micro-batch.
SPLITS = {
    "8/8": "8 windows per step = 1 micro-batch of 2 + 2 of 3 (at most 8), in 1 gradient accumulation step x 3 ranks",
    "8/1": "8 windows per step = 1 micro-batch of 0 + 8 of 1, in 3 gradient accumulation steps x 3 ranks",
    "2/8": "2 windows per step = 1 micro-batch of 0 + 2 of 1 (at most 8), in 1 gradient accumulation step x 3 ranks",
}

Results = dict[int, dict[str, Any]]


def write_pages(folder: Path, words: list[str], tags: list[str]) -> None:
    """21 pages in unilm's format: with 8 windows a step, the last step of an epoch has 5."""
    folder.mkdir()
    rng = random.Random(5)
    rows: list[tuple[str, str, str]] = []
    for page, length in enumerate([1, 60, 3, 40, 17, 8, 2, 100, 1, 5, 33, 1, 70, 9, 2, 25, 1, 50, 4, 12, 80]):
        for _ in range(length):
            x, y = rng.randrange(900), rng.randrange(900)
            word, tag = rng.choice(words), rng.choice(tags)
            image = f"{word}\t0 0 1 1\t100 100\t{page}.png"
            rows.append((f"{word}\t{tag}", f"{word}\t{x} {y} {x + 50} {y + 20}", image))
        rows.append(("", "", ""))
    for index, name in enumerate(("train", "train_box", "train_image")):
        (folder / f"{name}.txt").write_text("\n".join(row[index] for row in rows))


@pytest.fixture(scope="module")
def results(tier: str, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Measured by the worker on 2 and 3 ranks, in the slow tier on 1 too, over windows of very unequal label counts."""
    folder = tmp_path_factory.mktemp("steps")
    (folder / "checkpoint").symlink_to(checkpoints["layoutlm"])
    write_pages(folder / "data", ["brass", "wheel", "12", "Feb"], ["O", "S-A", "S-B"])
    # Words of one and of several sub-words, and tags of very unequal frequency.
    write_pages(folder / "skewed", ["brass", "12-wheel", "12"], [*["O"] * 12, "S-A", "S-A", "S-B"])
    found = {}
    for ranks in (2, 3) if tier == "fast" else (1, 2, 3):
        out = folder / f"{ranks}.json"
        done = fork([WORKER, folder, out, tier], ranks=ranks)
        assert done.returncode == 0, done.stderr[-4000:]
        found[ranks] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("micro", [pytest.param("1", marks=SLOW), "2", pytest.param("4", marks=SLOW)])
@pytest.mark.parametrize("stage", STAGES)
def test_the_gradient_is_that_of_the_whole_global_batch(stage: str, micro: str, ranks: int, results: Results) -> None:
    # Three steps, of which the third is an epoch's last with 5 windows instead of 8.
    measured = results[ranks][f"fp32/{stage}/{micro}"]
    assert len(measured["gradient"]) == 3
    assert max(measured["gradient"]) <= 1e-5
    assert max(map(abs, measured["loss error"])) <= 1e-5
    assert max(map(abs, measured["norm"])) <= 1e-5
    assert max(measured["weights"]) <= 1e-5  # AdamW, decay, clipping and schedule as in plain PyTorch


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("micro", ["1", "8"])
@pytest.mark.parametrize("stage", ONE_STAGE)
def test_dropout_is_the_same_in_every_micro_batch_and_on_every_rank(
    stage: str, micro: str, ranks: int, results: Results
) -> None:
    measured = results[ranks][f"dropout/{stage}/{micro}"]
    assert len(measured["gradient"]) == 3
    assert max(measured["gradient"]) <= 1e-6
    assert max(map(abs, measured["loss error"])) <= 1e-6
    without = results[ranks][f"fp32/{stage}/2"]["loss"]
    assert all(abs(loss / other - 1) > 1e-4 for loss, other in zip(measured["loss"], without, strict=True))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("stage", ONE_STAGE)
def test_the_gradient_is_exact_where_the_ranks_do_not_divide_the_batch(
    stage: str, split: str, results: Results
) -> None:
    measured = results[3][f"{stage}/{split}"]
    assert measured["batch"] == SPLITS[split]
    assert len(measured["gradient"]) == 3
    assert max(measured["gradient"]) <= 1e-5
    assert max(map(abs, measured["loss error"])) <= 1e-5
    assert max(map(abs, measured["norm"])) <= 1e-5
    # Dropout is on. Adam's first update, g / |g|, magnifies rounding where a small batch has almost no gradient.
    assert max(measured["weights"]) <= 3e-5


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("stage", [pytest.param("0", marks=SLOW), pytest.param("2", marks=SLOW), "3"])
def test_gradient_checkpointing_computes_the_same(stage: str, ranks: int, results: Results) -> None:
    # With dropout, whose masks are drawn a second time in the backward pass.
    measured = results[ranks][f"checkpointing/{stage}"]
    assert max(measured["gradient"]) <= 1e-5
    assert max(map(abs, measured["loss error"])) <= 1e-5


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("stage", ONE_STAGE)
def test_weights_smoothing_and_all_sub_words_are_exact_too(stage: str, ranks: int, results: Results) -> None:
    # Against torch's cross_entropy(weight=..., label_smoothing=..., reduction="mean") over the whole global batch.
    measured = results[ranks][f"weighted/{stage}"]
    assert len(measured["gradient"]) == 3
    assert max(measured["gradient"]) <= 1e-5
    assert max(map(abs, measured["norm"])) <= 1e-5
    assert max(map(abs, measured["loss error"])) <= 1e-5


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("dtype", ["fp32", pytest.param("bf16", marks=SLOW), pytest.param("fp16", marks=SLOW)])
@pytest.mark.parametrize("stage", ONE_STAGE)
def test_a_step_of_a_ramp_is_exact_whatever_the_deepspeed_json_says(
    stage: str, dtype: str, ranks: int, results: Results
) -> None:
    # 3 windows, 16, 2 that end the epoch, and 8, of which the JSON knows 8 alone.
    measured = results[ranks][f"ramp/{dtype}/{stage}"]
    assert measured["lr"] == pytest.approx([1e-3 * lr for lr in (3 / 8, 2 * 19 / 20, 18 / 20, 17 / 20)], rel=1e-12)
    # The tolerances of the constant batches above.
    assert len(measured["gradient"]) == 4
    assert max(measured["gradient"]) <= {"fp32": 1e-5, "bf16": 0.03, "fp16": 0.004}[dtype]
    assert max(map(abs, measured["norm"])) <= {"fp32": 1e-5, "bf16": 0.01, "fp16": 0.002}[dtype]
    if dtype == "fp32":
        assert max(map(abs, measured["loss error"])) <= 1e-5
        assert max(measured["weights"]) <= 1e-5


def test_every_generator_is_seeded_by_step_and_rank(results: Results) -> None:
    # Python's, NumPy's and torch's, the same after the same step whatever was drawn before, another on another rank.
    first, second = results[2]["draws"]
    for again in (first, second):
        assert again[0] == again[1]
    assert all(one != other for one, other in zip(first[0], second[0], strict=True))


@pytest.mark.slow
def test_rank_0_draws_what_it_draws_alone(results: Results) -> None:
    assert results[1]["draws"] == results[2]["draws"][:1]


@pytest.mark.slow
def test_the_loss_curve_does_not_depend_on_the_ranks(results: Results) -> None:
    one, two = results[1]["curve"], results[2]["curve"]
    assert len(one) == 20
    assert two == pytest.approx(one, rel=1e-4)
    assert one[-1] < one[0]


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize(
    ("warmup", "total"), [pytest.param(0, 10, marks=SLOW), pytest.param(1, 10, marks=SLOW), (4, 10), (10, 10)]
)
def test_the_applied_learning_rate_is_the_closed_form(warmup: int, total: int, ranks: int, results: Results) -> None:
    plan = plan_schedule(ScheduleSettings(max_steps=total, warmup_steps=warmup), 8, None)
    expected = [1e-3 * plan.factor(step) for step in range(total)]
    assert results[ranks][f"lr/{warmup}/{total}"] == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("stage", TWO_STAGES)
def test_bf16_computes_the_same_within_its_precision(stage: str, ranks: int, results: Results) -> None:
    # bf16 keeps 8 bits: rounding is 2^-9 = 0.2% an operation, and a few per cent after a backward pass.
    measured = results[ranks][f"bf16/{stage}"]
    assert max(measured["gradient"]) <= 0.03
    assert max(map(abs, measured["norm"])) <= 0.01
    assert measured["scale"] == [1.0] * 4


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("stage", TWO_STAGES)
def test_fp16_divides_by_the_scale_it_multiplied_with(stage: str, ranks: int, results: Results) -> None:
    # The scale doubles every 2 clean steps. Left to DeepSpeed the doubling step's gradient is halved, which ends 6%
    # away from plain PyTorch's updates, and at ZeRO 0 no gradient is scaled at all. fp16's rounding gives 0.8%.
    measured = results[ranks][f"fp16 growing/{stage}"]
    assert measured["scale"] == [256.0, 256.0, 256.0, 512.0, 512.0, 1024.0, 1024.0]
    assert measured["applied"] == [1.0] * 7
    assert max(measured["gradient"]) <= 0.004
    assert max(map(abs, measured["norm"])) <= 0.002
    assert measured["weights"][-1] <= 0.015
    fixed = results[ranks][f"fp16 fixed/{stage}"]
    assert fixed["scale"] == [128.0, 128.0]
    assert max(fixed["gradient"]) <= 0.004
    assert max(map(abs, fixed["norm"])) <= 0.002


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("stage", TWO_STAGES)
def test_fp16_overflow_skips_the_step_and_honours_hysteresis(stage: str, ranks: int, results: Results) -> None:
    measured = results[ranks][f"fp16 overflow/{stage}"]
    # 2^30 overflows; the first overflow is tolerated (hysteresis 2), each further one halves the scale.
    assert measured["scale"] == [2.0**30, 2.0**30, 2.0**29, 2.0**28]
    assert measured["applied"] == [0.0] * 4
    assert measured["skipped"] == [1, 2, 3, 4]
    assert measured["norm"] == [float("inf")] * 4
    # The schedule counts steps, applied or not.
    assert measured["lr"] == pytest.approx([1e-3 * (20 - step) / 20 for step in range(4)], rel=1e-12)


def test_fp16_is_refused_where_the_device_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from deepspeed.accelerator import get_accelerator

    from layoutner.engine.engine import require_dtype
    from layoutner.errors import SettingsError

    monkeypatch.setattr(get_accelerator(), "supported_dtypes", lambda: [torch.float32, torch.bfloat16])
    require_dtype("bf16")
    with pytest.raises(SettingsError, match="precision.dtype = fp16: this device .* has no fp16; it has fp32, bf16"):
        require_dtype("fp16")
