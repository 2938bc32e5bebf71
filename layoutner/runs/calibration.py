"""Score an exported model, with probabilities that are calibrated on data.eval."""

import logging
from collections.abc import Sequence
from pathlib import Path

from layoutner.corpus.windows import ends_of
from layoutner.documents.columns import word_counts
from layoutner.inference.export import set_temperature
from layoutner.inference.labeller import Labeller
from layoutner.objectives.calibration import CALIBRATION_FILE, Calibration, WordLogits
from layoutner.objectives.errors import ErrorCounter, Errors
from layoutner.objectives.metrics import Scores
from layoutner.pages.document import Document
from layoutner.training.checkpoint_files import step_of
from layoutner.training.folder import EXPORT_FOLDER
from layoutner.training.plan import Plan

logger = logging.getLogger(__name__)


def score_calibrated(plan: Plan, labeller: Labeller, split: str, checkpoint: Path) -> tuple[Scores, Errors]:
    """Fit the temperature on data.eval if there is one, store it in the export, and score a split. All ranks call it.

    If the split has the pages of data.eval, they are labelled once. Scores do not depend on the temperature.

    Args:
        labeller: of the run's export. It gets the temperature.
        checkpoint: the exported one.
    """
    corpus, limit, ranks = plan.corpus, plan.batch.micro_batch_limit, labeller.ranks
    labelled: Sequence[Document] = getattr(corpus, split)
    counter = ErrorCounter()
    if not corpus.eval:
        return labeller.evaluate(labelled, split, limit, errors=counter), counter.result(split)
    held = WordLogits()
    if labelled is not corpus.eval:
        labeller.evaluate(corpus.eval, "eval", limit, held=held)
        _calibrate(labeller, held, checkpoint)
        return labeller.evaluate(labelled, split, limit, errors=counter), counter.result(split)
    scores = labeller.evaluate(labelled, split, limit, held=held)
    _calibrate(labeller, held, checkpoint)
    if ranks.is_rank_zero:
        starts, probabilities = ends_of(word_counts(labelled)), held.probabilities(labeller.temperature)
        counter.add(labelled, starts, held.labels, probabilities, labeller.labels)
    return scores, counter.result(split)


def _calibrate(labeller: Labeller, held: WordLogits, checkpoint: Path) -> None:
    """Fit the temperature, write it into the run folder and the export, and use it. All ranks call it."""
    run = checkpoint.parent.parent

    def fit() -> Calibration:
        calibration = held.calibrate(step_of(checkpoint))
        calibration.write(run / CALIBRATION_FILE)
        set_temperature(run / EXPORT_FOLDER, calibration.temperature)
        return calibration

    calibration: Calibration = labeller.ranks.run_on_rank_zero(fit)
    labeller.temperature = calibration.temperature
    logger.info("%s", calibration)
