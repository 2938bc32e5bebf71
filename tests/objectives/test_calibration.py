"""The temperature of probabilities: it is found again, and never makes them worse."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layoutner.files.arrays import Array
from layoutner.objectives.calibration import BOUNDS, ROWS, Calibration, WordLogits, _loss, fit_temperature
from layoutner.objectives.errors import calibration_error


def calibrated(words: int, labels: int = 5, seed: int = 0) -> tuple[Array, Array]:
    """Logits, and labels that are drawn with the probabilities of these logits."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (words, labels))
    noise = rng.gumbel(size=logits.shape)
    return logits.astype(np.float32), (logits + noise).argmax(-1)


@pytest.mark.parametrize("factor", [0.3, 0.8, 1.0, 1.7, 6.0])
def test_the_factor_of_scaled_logits_is_found(factor: float) -> None:
    logits, truth = calibrated(2 * ROWS + 17)
    found = fit_temperature(logits, truth)
    assert found == pytest.approx(1, rel=0.01)
    assert fit_temperature(logits * np.float32(factor), truth) == pytest.approx(factor * found, rel=1e-4)


def test_the_slope_is_zero_where_the_search_ends() -> None:
    logits, truth = calibrated(3000, seed=4)
    logits *= 3
    best = fit_temperature(logits, truth)
    at_best = _loss(logits, truth, best)
    assert all(_loss(logits, truth, best * factor) > at_best for factor in (0.99, 1.01))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([0.01, 1.0, 100.0]))
def test_the_cross_entropy_is_never_larger(seed: int, words: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(words, 3))).astype(np.float32)
    truth = rng.integers(0, 3, words)
    temperature = fit_temperature(logits, truth)
    assert BOUNDS[0] <= temperature <= BOUNDS[1]
    assert _loss(logits, truth, temperature) <= _loss(logits, truth, 1.0)


def test_without_a_wrong_word_nothing_changes() -> None:
    logits, _ = calibrated(100)
    assert fit_temperature(logits, logits.argmax(-1)) == 1.0


def test_overconfident_probabilities_become_reliable(tmp_path: Path) -> None:
    logits, truth = calibrated(20_000, seed=2)
    held = WordLogits()
    for part in (slice(0, 5), slice(5, 5), slice(5, None)):
        held.add(truth[part], logits[part].argmax(-1), 3 * logits[part])
    found = held.calibrate(step=7)
    assert found.temperature == pytest.approx(3, rel=0.02)
    assert (found.step, found.words, sum(one.words for one in found.after)) == (7, 20_000, 20_000)
    before, after = found.errors
    assert before > 0.15
    assert after < 0.015
    assert found.loss[1] < found.loss[0]
    # The mean probability of the predicted labels, less the share of right ones: at T = 1 as softmax gives it.
    p_WL = np.exp(3 * logits - (3 * logits).max(-1, keepdims=True))
    p_W = (p_WL / p_WL.sum(-1, keepdims=True)).max(-1)
    np.testing.assert_allclose(held.probabilities(1.0), p_W, atol=1e-6)
    assert before == pytest.approx(calibration_error(found.before))
    found.write(tmp_path / "calibration.json")
    assert Calibration.read(tmp_path / "calibration.json") == found
    assert "with temperature 2.959, fitted on 20000 words" in str(found)
