"""One run: trained, exported, scored and, if asked, predicted."""

import logging
from pathlib import Path
from typing import Any

from layoutner.distributed.ranks import Ranks
from layoutner.inference.export import export
from layoutner.inference.input import ReportingStats, documents, lost_pages
from layoutner.inference.labeller import Labeller
from layoutner.inference.output import Output, results
from layoutner.inference.predict import predict
from layoutner.objectives.metrics import Scores
from layoutner.pages.document import Document
from layoutner.runs.training_run import train_model
from layoutner.settings.tree import Settings
from layoutner.training.folder import (
    EXPORT_FOLDER,
    PREDICTION_FILES,
    RESULTS_FILE,
    SCORES_FILE,
    held_folders,
    remove,
    write_json,
    write_text,
)

logger = logging.getLogger(__name__)


def run_once(settings: Settings, ranks: Ranks) -> dict[str, Any] | None:
    """Train, export the chosen checkpoint and score it. All ranks call it.

    Returns:
        What was written to scores.json; None without data.eval and data.test.

    Raises:
        UserError: anything the user can mend.
    """

    with held_folders():
        return _train_and_score(settings, ranks)


def _train_and_score(settings: Settings, ranks: Ranks) -> dict[str, Any] | None:

    plan, chosen = train_model(settings, ranks)
    run = settings.run.output_dir
    out = run / EXPORT_FOLDER
    ranks.run_on_rank_zero(lambda: _export_anew(chosen, out))
    # The chosen checkpoint is scored once, as it will be used: from the export, on the test documents if there are any.
    split = "test" if plan.corpus.test else "eval"
    labelled: list[Document] = getattr(plan.corpus, split)
    written = None
    if labelled:
        labeller = ranks.run_on_all_ranks(lambda: Labeller(out, ranks, settings.data.max_image_mib))
        scores = labeller.evaluate(labelled, split, settings.batch.micro_batch_size)
        checkpoint: dict[str, Any] = {"step": int(chosen.name.removeprefix("step-"))}
        warning = ""
        if settings.data.selection_split == "test":
            checkpoint |= {"by": "test f1", "chosen_on_test": True}
            warning = (
                "\n  the checkpoint was chosen on these test pages (data.selection_split = test), which flatters it"
            )
        else:
            checkpoint["by"] = "eval f1" if plan.corpus.eval else "last step"
        written = {**scores.to_dict(), "checkpoint": checkpoint}
        ranks.run_on_rank_zero(lambda: write_json(run / SCORES_FILE, written))
        logger.info("%s%s", scores, warning)
        if scores.note is not None:
            logger.info("%s", scores.note)
        if settings.run.predictions != "none":
            _write_predictions(settings, labeller, scores)
    logger.info("%s exported to %s", chosen.name, out)
    return written


def _write_predictions(settings: Settings, labeller: Labeller, scores: Scores) -> None:
    """The labels of the documents of data.test, in their order, as run.predictions says. All ranks call it."""

    run, data, ranks = settings.run, settings.data, labeller.ranks
    assert data.test is not None, "the plan refuses run.predictions without data.test"
    output = Output(run.output_dir / PREDICTION_FILES[run.predictions])
    ranks.run_on_rank_zero(output.open)
    try:
        # Read anew: training sorts the documents, and a prediction keeps to their order.
        stats = ReportingStats()
        found = documents(data, data.test, "test", stats, "ignore")
        lost = lost_pages(data, stats)
        predict(labeller, found, settings.batch.micro_batch_size, output, run.predictions, lost=lost)
        if run.predictions == "unilm":
            text = results({"": scores})
            ranks.run_on_rank_zero(lambda: write_text(run.output_dir / RESULTS_FILE, text))
    finally:
        output.discard()
    logger.info("labels of the documents of data.test in %s", output.path)


def _export_anew(chosen: Path, out: Path) -> None:

    remove(out)
    export(chosen, out)
