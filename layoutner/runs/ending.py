"""What a finished run says last: its score, its time, what is in its folder, and the next commands."""

import shlex

from layoutner.objectives.metrics import Scores
from layoutner.settings.tree import Settings
from layoutner.tracking.run_log import LOG_FILE
from layoutner.tracking.trackers import METRICS_FILE
from layoutner.training.folder import ERRORS_FILE, EXPORT_FOLDER, PREDICTION_FILES, SCORES_FILE


def what_next(settings: Settings, scores: Scores | None, exported: str, time: str) -> str:
    """The lines. The commands are left out for a fold, whose model is one of several.

    Args:
        exported: which checkpoint, and where.
        time: where it went; see `Meter.summary`.
    """
    run = settings.run.output_dir
    files = [f"{EXPORT_FOLDER}/", *([] if scores is None else [SCORES_FILE, ERRORS_FILE]), METRICS_FILE, LOG_FILE]
    if settings.run.predictions != "none":
        files.append(PREDICTION_FILES[settings.run.predictions])
    lines = [exported, time, f"files in {run}: {', '.join(files)}"]
    if scores is not None:
        lines.insert(
            0,
            f"F1 {scores.f1:.4f} on {scores.counts['documents']} {scores.split} documents "
            f"(precision {scores.precision:.4f}, recall {scores.recall:.4f})",
        )
    if settings.data.fold is None:
        name = shlex.quote(str(run))
        lines += [
            f"next: layoutner predict PAGES --model {name} --output words.jsonl",
            f"      layoutner report {name} -o report.html",
            f"      layoutner compare {name} ANOTHER-RUN",
        ]
    return "\n".join(lines)
