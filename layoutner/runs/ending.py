"""What a finished run says last: its score, what is in its folder, and the next commands."""

import shlex
from collections.abc import Iterator

from layoutner.objectives.metrics import Scores
from layoutner.settings.tree import Settings
from layoutner.tracking.run_log import LOG_FILE
from layoutner.tracking.trackers import METRICS_FILE
from layoutner.training.folder import EXPORT_FOLDER, PREDICTION_FILES, SCORES_FILE


def what_next(settings: Settings, scores: Scores | None) -> Iterator[str]:
    """The lines. The commands are left out for a fold, whose model is one of several."""
    run = settings.run.output_dir
    if scores is not None:
        yield (
            f"F1 {scores.f1:.4f} on {scores.counts['documents']} {scores.split} documents "
            f"(precision {scores.precision:.4f}, recall {scores.recall:.4f})"
        )
    files = [f"{EXPORT_FOLDER}/", *([SCORES_FILE] if scores is not None else []), METRICS_FILE, LOG_FILE]
    if settings.run.predictions != "none":
        files.append(PREDICTION_FILES[settings.run.predictions])
    yield f"files in {run}: {', '.join(files)}"
    if settings.data.fold is None:
        name = shlex.quote(str(run))
        yield f"next: layoutner predict PAGES --model {name} --output words.jsonl"
        yield f"      layoutner report {name} -o report.html"
        yield f"      layoutner compare {name} ANOTHER-RUN"
