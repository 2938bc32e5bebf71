"""Cross-validation: train one model per fold, each scored on the fold that was held out."""

import logging
from functools import partial
from typing import Any

from layoutner.distributed.ranks import Ranks
from layoutner.runs.folds import finished_scores, number_of_folds, require_summary, settings_of_fold, summarise, table
from layoutner.runs.single import run_once
from layoutner.settings.tree import Settings
from layoutner.training.folder import SCORES_FILE, write_json

logger = logging.getLogger(__name__)


def cross_validate(settings: Settings, ranks: Ranks) -> None:
    """Train and score one model per fold, and write a summary of the scores. All ranks call it.

    With run.resume = auto, folds that an earlier call has scored are not trained again.

    Raises:
        LayoutnerError: an error that is not a bug; its class tells the kind.
    """
    folds = number_of_folds(settings)
    if settings.run.eval_every:
        logger.info(
            "note: every run.eval_every = %d steps a fold's model is scored on its held-out part, and the best "
            "checkpoint is chosen, which inflates the score; run.eval_every = 0 chooses the last",
            settings.run.eval_every,
        )
    summary_file = settings.run.output_dir / SCORES_FILE
    ranks.run_on_rank_zero(lambda: require_summary(summary_file, settings_of_fold(settings, 1).run.output_dir))
    found: list[dict[str, Any]] = []
    for number in range(1, folds + 1):
        own = settings_of_fold(settings, number)
        scores = ranks.run_on_rank_zero(partial(finished_scores, own))
        if scores is None:
            logger.info("fold %d of %d in %s", number, folds, own.run.output_dir)
            scores = run_once(own, ranks).to_dict()
            if settings.run.overwrite:  # remove the old summary only now: until here, its folds still existed
                ranks.run_on_rank_zero(lambda: summary_file.unlink(missing_ok=True))
        else:
            logger.info("fold %d of %d: scored already in %s", number, folds, own.run.output_dir)
        found.append(scores)
    summary = summarise(found)
    ranks.run_on_rank_zero(lambda: write_json(summary_file, summary))
    logger.info("%s", table(summary))
