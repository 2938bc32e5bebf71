"""Gradient statistics are those of plain autograd at every ZeRO stage, and the noise scale has no bias."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from layoutner.engine.optimizers import norm
from layoutner.engine.statistics import gradient_noise, layer_of
from layoutner.planning.optimizers import OPTIMIZERS
from tests.builders.forks import fork
from tests.builders.processes import ROOT

WORKER = ROOT / "tests" / "workers" / "gradient_statistics.py"
SLOW = pytest.mark.slow
RANKS = (pytest.param(1, marks=SLOW), 2)
EXACT = ["0/fp32/plain", "2/fp32/plain", "3/fp32/checkpointing"]
EXACT_TOO = ["1/fp32/plain", "3/fp32/plain", "2-offload/fp32/plain", "3-offload/fp32/plain"]
EXACT_TOO += [f"{stage}/fp32/shared" for stage in "023"]  # two layers have the same feed-forward network
ROUNDED = ["2/fp16/plain"]
ROUNDED_TOO = [f"{stage}/{dtype}/plain" for stage in "0123" for dtype in ("bf16", "fp16")]

Results = dict[int, dict[str, Any]]


def cases(fast: list[str], more: list[str]) -> list[Any]:
    return [*fast, *(pytest.param(one, marks=SLOW) for one in more if one not in fast)]


@pytest.fixture(scope="module")
def results(tier: str, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Measured by the worker on 2 ranks, and in the slow tier on 1."""
    folder = tmp_path_factory.mktemp("statistics")
    found = {}
    for ranks in (2,) if tier == "fast" else (2, 1):
        out = folder / f"{ranks}.json"
        done = fork([WORKER, out, tier], ranks=ranks)
        assert done.returncode == 0, done.stderr[-4000:]
        found[ranks] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("case", cases(EXACT, EXACT_TOO))
def test_statistics_are_those_of_autograd_in_float64(case: str, ranks: int, results: Results) -> None:
    # Six micro-batches of 0 to 5 windows, a frozen parameter, clipping, parameters cut anywhere.
    measured = results[ranks][case]
    assert measured["errors"].keys() == {
        "gradient/window_variance",
        "gradient/squared_norm",
        "gradient_norm",
        "update_ratio",
    }
    assert measured["errors"]["gradient/window_variance"] <= 1e-5
    # A difference, of which the gradient's norm is several times as large.
    assert measured["errors"]["gradient/squared_norm"] <= 1e-4
    assert measured["errors"]["gradient_norm"] <= 1e-5
    assert measured["errors"]["update_ratio"] <= 1e-5
    assert measured["clipped"] == [True, True]


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("case", cases(ROUNDED, ROUNDED_TOO))
def test_statistics_of_half_precision(case: str, ranks: int, results: Results) -> None:
    # The loss scale of 1024 is not in them. The network rounds to 8 or 11 bits, the fp32 weights are compared exactly.
    measured = results[ranks][case]
    assert measured["errors"]["gradient/window_variance"] <= 0.03
    assert measured["errors"]["gradient_norm"] <= 0.03
    assert measured["errors"]["update_ratio"] <= 1e-5


@pytest.mark.parametrize("case", EXACT)
def test_a_step_that_is_not_measured_has_none(case: str, results: Results) -> None:
    measured = results[2][case]
    assert measured["unmeasured"] == {}
    assert measured["hooks left"] == 0


def test_averages_are_taken_before_the_ratio(results: Results) -> None:
    measured = results[2]["0/fp32/plain"]
    keys = ("gradient/window_variance", "gradient/squared_norm")
    (s0, g0), (s1, g1) = [[values[key] for key in keys] for values in measured["values"]]
    assert measured["averages"] == pytest.approx([0.05 * (0.95 * s0 + s1), 0.05 * (0.95 * g0 + g1)], rel=1e-12)
    scales = [values.get("gradient/noise_scale_windows") for values in measured["values"]]
    averaged = [s0 / g0, (0.95 * s0 + s1) / (0.95 * g0 + g1)]
    assert scales == [pytest.approx(one, rel=1e-12) if one > 0 else None for one in averaged]


@SLOW
def test_one_and_two_ranks_measure_the_same(results: Results) -> None:
    for name, value in results[1]["2/fp32/plain"]["values"][0].items():
        assert results[2]["2/fp32/plain"]["values"][0][name] == pytest.approx(value, rel=1e-4), name


def test_at_learning_rate_0_no_optimizer_moves_a_weight(results: Results) -> None:
    assert results[2]["moves"] == dict.fromkeys(OPTIMIZERS, False)


def test_a_step_that_fp16_skips_is_not_counted(results: Results) -> None:
    assert results[2]["skipped"] == {"applied": False, "statistics": {}, "averages": [0.0, 0.0]}


@pytest.mark.parametrize("ranks", RANKS)
def test_a_known_noise_scale_is_found(ranks: int, results: Results) -> None:
    # 40 steps of 163 windows whose gradients are Gaussian, in micro-batches of 4 to 59.
    errors = results[ranks]["known"]
    assert abs(errors["window variance"]) <= 0.02
    assert abs(errors["squared norm"]) <= 0.05
    assert abs(errors["noise scale"]) <= 0.06


def test_the_estimates_have_no_bias() -> None:
    rng = np.random.default_rng(0)
    size, steps = 40, 4_000
    sizes = rng.integers(4, 60, size=12)
    spread, mean = rng.uniform(0.5, 2.0, size), rng.normal(0, 0.2, size)
    windows = int(sizes.sum())
    # The mean of n independent gradients is Gaussian with a covariance of 1/n of theirs.
    means = mean + spread * rng.standard_normal((steps, len(sizes), size)) / np.sqrt(sizes)[:, None]
    contributions = means * (sizes / windows)[:, None]
    whole = contributions.sum(1)
    scattered = (np.square(contributions).sum(2) / sizes).sum(1)
    found = [
        gradient_noise(windows, len(sizes), one, norm) for one, norm in zip(scattered, (whole**2).sum(1), strict=True)
    ]
    variance, squared_norm = np.mean(found, axis=0)
    assert variance == pytest.approx((spread**2).sum(), rel=0.005)
    assert squared_norm == pytest.approx((mean**2).sum(), rel=0.01)
    # The norm of the step's gradient itself is larger by the noise, which is why it cannot be taken.
    assert (whole**2).sum(1).mean() > 1.1 * (mean**2).sum()


def test_gradients_without_noise_have_none() -> None:
    # Two micro-batches of 2 and 6 windows, each with the gradient 3: contributions of 3/4 and 9/4.
    found = gradient_noise(8, 2, (3 / 4) ** 2 / 2 + (9 / 4) ** 2 / 6, 9.0)
    assert found == pytest.approx((0.0, 9.0))


@pytest.mark.parametrize("shape", [(), (1,), (4095,), (4096,), (3, 5000), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_are_those_of_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.randn(shape).to(dtype)
    for one in (values, values.mT) if values.dim() == 2 else (values,):
        assert float(norm(one)) == pytest.approx(float(one.double().norm()), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("bert.embeddings.word_embeddings.weight", "embeddings"),
        ("bert.embeddings.LayerNorm.bias", "embeddings"),
        ("layoutlm.encoder.layer.11.output.dense.weight", "layer.11"),
        ("model.layers.0.attn.Wqkv.weight", "layer.0"),
        ("layoutlm.pooler.dense.weight", "head"),
        ("classifier.bias", "head"),
    ],
)
def test_layers_are_named_as_in_the_network(name: str, layer: str) -> None:
    assert layer_of(name) == layer
