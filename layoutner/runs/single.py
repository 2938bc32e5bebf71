"""One run: train, export, score and, if asked, predict."""

import gc
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layoutner.distributed.ranks import Ranks
from layoutner.files.atomic import remove, write_text
from layoutner.inference.export import export
from layoutner.inference.input import ReportingStats, documents, lost_pages
from layoutner.inference.labeller import Labeller
from layoutner.inference.output import Output, results
from layoutner.inference.predict import predict
from layoutner.inference.prediction_text import PageText
from layoutner.objectives.metrics import Scores
from layoutner.objectives.scores_file import ScoresFile
from layoutner.publishing.model_card import write_card
from layoutner.runs.calibration import score_calibrated
from layoutner.runs.ending import what_next
from layoutner.runs.training_run import open_run, train_model
from layoutner.settings.tree import Settings
from layoutner.tracking.run_log import run_log
from layoutner.training.checkpoint_files import read_record, step_of
from layoutner.training.folder import (
    ERRORS_FILE,
    EXPORT_FOLDER,
    PREDICTION_FILES,
    RESULTS_FILE,
    SCORES_FILE,
    held_folders,
    write_json,
)
from layoutner.training.plan import Plan

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """The result of a run, the same on every rank."""

    output_dir: Path  # the run folder
    checkpoint: Path  # the chosen checkpoint
    chosen_by: str  # how it was chosen: "eval f1", "test f1" or "last step"
    model_dir: Path  # folder of the exported model
    scores: Scores | None  # on data.test, else on data.eval; None if neither is set

    @property
    def step(self) -> int:
        """Number of optimizer steps of the chosen checkpoint."""
        return step_of(self.checkpoint)

    def to_dict(self) -> dict[str, Any]:
        """The content of scores.json."""
        assert self.scores is not None, "a run without data.eval and data.test writes no scores"
        on_test = {"chosen_on_test": True} if self.chosen_by == "test f1" else {}
        return {
            "format_version": ScoresFile.NEWEST,
            **self.scores.to_dict(),
            "checkpoint": {"step": self.step, **on_test, "by": self.chosen_by},
        }


def run_once(settings: Settings, ranks: Ranks) -> RunResult:
    """Train, export the chosen checkpoint and score it. All ranks call it.

    The exported model is loaded and scored once: on the test documents if there are any, else on data.eval.

    Raises:
        LayoutnerError: an error that is not a bug; its class tells the kind.
        Preempted: a signal asked the run to end, and its checkpoint is saved.
    """
    with held_folders(), run_log(ranks) as log:
        training = open_run(settings, ranks)
        if ranks.is_rank_zero:
            log.begin(settings.run.output_dir)
        plan, tracker, run, data = training.plan, training.tracker, settings.run.output_dir, settings.data
        with tracker.finished_with(ranks):
            checkpoint, last_step = train_model(training, ranks)
            time = training.meter.summary()
            del training
            gc.collect()  # DeepSpeed's engine has reference cycles, and the exported model needs the memory
            result = RunResult(run, checkpoint, _chosen_by(plan), run / EXPORT_FOLDER, None)
            ranks.run_on_rank_zero(lambda: _export_again(checkpoint, result.model_dir))
            split = "test" if plan.corpus.test else "eval"
            if getattr(plan.corpus, split):
                labeller = ranks.run_on_all_ranks(lambda: Labeller(result.model_dir, ranks, data.max_image_mib))
                scores, errors = score_calibrated(plan, labeller, split, checkpoint)
                result = replace(result, scores=scores)
                ranks.run_on_rank_zero(lambda: write_json(run / SCORES_FILE, result.to_dict()))
                ranks.run_on_rank_zero(lambda: errors.write(run / ERRORS_FILE))
                ranks.run_on_rank_zero(lambda: write_card(checkpoint, result.model_dir))  # again, with its scores
                _report(result, scores)
                if settings.run.predictions != "none":
                    _write_predictions(plan, labeller, scores)
                if split == "test":
                    ranks.run_on_rank_zero(lambda: tracker.log_scores(last_step, scores.metrics()))
                ranks.run_on_rank_zero(lambda: tracker.log_errors(last_step, errors))
            ranks.run_on_rank_zero(lambda: tracker.log_model(result.model_dir))
        # Of the run that saved the checkpoint, which may have been resumed with another decay.
        if decay := ranks.run_on_rank_zero(lambda: read_record(checkpoint).settings["optimizer"].get("average_decay")):
            logger.info("%s: its weights are averages, with decay %g, not the last weights", checkpoint.name, decay)
        exported = f"{checkpoint.name} exported to {result.model_dir}"
        logger.info("%s", what_next(settings, result.scores, exported, time), extra={"panel": "finished"})
        return result


def _chosen_by(plan: Plan) -> str:
    if plan.settings.data.selection_split == "test":
        return "test f1"
    return "eval f1" if plan.corpus.eval else "last step"


def _report(result: RunResult, scores: Scores) -> None:
    """Log the scores, with warnings if they are too optimistic."""
    warning = "\n  the checkpoint was chosen on these test pages (data.selection_split = test), which inflates it"
    logger.info("%s%s", scores, warning if result.chosen_by == "test f1" else "")
    if scores.note is not None:
        logger.info("%s", scores.note)


def _write_predictions(plan: Plan, labeller: Labeller, scores: Scores) -> None:
    """Write predictions for data.test in file order, in the format of run.predictions. All ranks call it."""
    run, data, ranks = plan.settings.run, plan.settings.data, labeller.ranks
    assert data.test is not None, "the plan refuses run.predictions without data.test"
    output = Output(run.output_dir / PREDICTION_FILES[run.predictions])
    ranks.run_on_rank_zero(output.open)
    try:
        # Read again: training sorts the documents, and predictions are written in the order of the file.
        stats = ReportingStats()
        found = documents(data, data.test, "test", stats, "ignore")
        lost = lost_pages(data, stats)
        predict(labeller, found, plan.batch.micro_batch_limit, output, PageText(run.predictions), lost=lost)
        if run.predictions == "unilm":
            text = results({"": scores})
            ranks.run_on_rank_zero(lambda: write_text(run.output_dir / RESULTS_FILE, text))
    finally:
        output.discard()
    logger.info("predictions for data.test written to %s", output.path)


def _export_again(chosen: Path, out: Path) -> None:
    remove(out)
    export(chosen, out)
