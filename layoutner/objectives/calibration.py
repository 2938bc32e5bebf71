"""Calibrate probabilities with one temperature, fitted on labelled words.

Logits are divided by the temperature before the softmax, so predicted labels do not change. Source: Guo, Pleiss, Sun
and Weinberger, On Calibration of Modern Neural Networks, 2017, https://arxiv.org/abs/1706.04599, section 4.2.
"""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from layoutner.errors import CheckpointError, LayoutnerError
from layoutner.files.arrays import Array
from layoutner.files.artefact import Artefact
from layoutner.objectives.errors import Bin, calibration_error, probability_bins

CALIBRATION_FILE = "calibration.json"  # in the folder of a run
BOUNDS = (0.1, 10.0)  # of temperatures
CLOSE = 1e-6  # relative; the search ends there
ROWS = 2**16  # words that are computed at once


class Calibration(Artefact):
    """How the probabilities of a checkpoint were calibrated; calibration.json in the folder of a run."""

    refused_as: ClassVar[type[LayoutnerError]] = CheckpointError

    step: int  # of the checkpoint
    temperature: float
    words: int  # that it was fitted on
    loss: tuple[float, float]  # mean cross-entropy of these words, before and after
    before: tuple[Bin, ...]  # their probabilities
    after: tuple[Bin, ...]

    @property
    def errors(self) -> tuple[float, float]:
        """Expected calibration error before and after, see `calibration_error`."""
        return calibration_error(self.before), calibration_error(self.after)

    def __str__(self) -> str:
        before, after = self.errors
        return (
            f"probabilities are calibrated with temperature {self.temperature:.4g}, fitted on {self.words} words of "
            f"data.eval; their expected calibration error is {after:.4f}, and was {before:.4f}"
        )


class WordLogits:
    """Collects the logits of labelled words, in the order of the documents. Only rank 0 uses it."""

    def __init__(self) -> None:
        self._truth: list[Array] = []
        self._labels: list[Array] = []
        self._logits: list[Array] = []

    def add(self, truth: Array, labels: Array, logits: Array) -> None:
        """Add words: W true and W predicted label ids, and W x L logits."""
        self._truth.append(truth)
        self._labels.append(labels)
        self._logits.append(logits)

    @property
    def truth(self) -> Array:
        """W label ids."""
        return np.concatenate(self._truth)

    @property
    def labels(self) -> Array:
        """W predicted label ids."""
        return np.concatenate(self._labels)

    @property
    def logits(self) -> Array:
        """W x L, fp32."""
        return np.concatenate([part for part in self._logits if len(part)])

    def probabilities(self, temperature: float) -> Array:
        """Those of the predicted labels at a temperature; W."""
        logits, labels = self.logits, self.labels
        parts = [p_WL[np.arange(len(p_WL)), found] for found, _, p_WL in _softmax(logits, labels, 1 / temperature)]
        return np.concatenate(parts).astype(np.float32)

    def calibrate(self, step: int) -> Calibration:
        """Fit the temperature, and measure what it changes.

        Args:
            step: of the checkpoint.
        """
        truth, logits, right = self.truth, self.logits, self.labels == self.truth
        temperature = fit_temperature(logits, truth)
        before, after = (probability_bins(self.probabilities(one), right) for one in (1.0, temperature))
        loss = _loss(logits, truth, 1.0), _loss(logits, truth, temperature)
        return Calibration(step=step, temperature=temperature, words=len(truth), loss=loss, before=before, after=after)


def fit_temperature(logits: Array, truth: Array) -> float:
    """The temperature within BOUNDS with the least mean cross-entropy; 1 if no word is predicted wrongly.

    The cross-entropy is convex in 1 / temperature. Newton's method looks for the zero of its derivative, within bounds
    that close in on it. Without a wrong word, the least cross-entropy would be at temperature 0, whatever the words.

    Args:
        logits: W x L.
        truth: W label ids.
    """
    if not (logits.argmax(-1) != truth).any():
        return 1.0
    low, high = 1 / BOUNDS[1], 1 / BOUNDS[0]  # of the inverse temperature
    if _slope(logits, truth, low)[0] >= 0:
        return BOUNDS[1]
    if _slope(logits, truth, high)[0] <= 0:
        return BOUNDS[0]
    inverse = 1.0
    while high - low > CLOSE * inverse:
        slope, curvature = _slope(logits, truth, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else low
        if abs(step - inverse) < CLOSE * inverse:
            break
        inverse = step if low < step < high else (low + high) / 2
    temperature = float(f"{1 / inverse:.6g}")
    return temperature if _loss(logits, truth, temperature) < _loss(logits, truth, 1.0) else 1.0


def _slope(logits: Array, truth: Array, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean cross-entropy by the inverse temperature."""
    first = second = 0.0
    for labels_W, z_WL, p_WL in _softmax(logits, truth, inverse):
        mean_W = (p_WL * z_WL).sum(-1)
        first += float((mean_W - z_WL[np.arange(len(z_WL)), labels_W]).sum())
        second += float(((p_WL * z_WL**2).sum(-1) - mean_W**2).sum())
    return first / len(truth), second / len(truth)


def _loss(logits: Array, truth: Array, temperature: float) -> float:
    """Mean cross-entropy."""
    loss = 0.0
    for labels_W, z_WL, _ in _softmax(logits, truth, 1 / temperature):
        scaled_WL = z_WL / temperature
        of_truth_W = scaled_WL[np.arange(len(z_WL)), labels_W]
        loss += float((np.log(np.exp(scaled_WL).sum(-1)) - of_truth_W).sum())
    return loss / len(truth)


def _softmax(logits: Array, labels: Array, inverse: float) -> Iterator[tuple[Array, Array, Array]]:
    """For some words at a time: their labels, their logits less the largest, and the probabilities."""
    for start in range(0, len(labels), ROWS):
        z_WL = logits[start : start + ROWS].astype(np.float64)
        z_WL -= z_WL.max(-1, keepdims=True)
        exp_WL = np.exp(inverse * z_WL)
        yield labels[start : start + ROWS], z_WL, exp_WL / exp_WL.sum(-1, keepdims=True)
