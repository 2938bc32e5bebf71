"""The folds of a cross-validation: settings, scores and summary. Does not import torch."""

import statistics
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from layoutner.errors import CheckpointError, SettingsError
from layoutner.models.preprocessing import PREPROCESSING_FILE
from layoutner.objectives.scores_file import ScoresFile
from layoutner.settings.tree import Settings
from layoutner.training.folder import SCORES_FILE, SETTINGS_FILE

# Settings and sections (with a trailing dot) that do not change the scores of a run: how and where it computes and what
# it writes.
# fmt: off
NON_NUMERIC_SETTINGS = (
    "model.gradient_checkpointing", "batch.micro_batch_size", "batch.micro_batch_tokens", "data.max_image_mib",
    "optimizer.largest_stable_lr", "deepspeed.", "wandb.", "tensorboard.",
    "run.output_dir", "run.log_every", "run.gradient_statistics_every", "run.save_every", "run.keep_checkpoints",
    "run.resume", "run.overwrite",
    "run.device", "run.rank_timeout",
)
# fmt: on


def number_of_folds(settings: Settings) -> int:
    """The number of folds.

    Raises:
        SettingsError: the settings do not fit a cross-validation.
    """
    data = settings.data
    if data.folds is None:
        raise SettingsError("data.folds is missing: the number of parts, each of which is held out once, such as 5")
    if data.fold is not None:
        raise SettingsError(f"data.fold = {data.fold}: cross-validate trains every fold; `layoutner train` trains one")
    if data.test is not None:
        # There would be one test score per fold, and picking the best would be a selection on the test pages.
        raise SettingsError(
            f"data.test = {data.test}: cross-validation scores only the held-out folds; leave it out, or score the "
            "test documents with `layoutner train` on all training documents"
        )
    if settings.run.resume not in ("never", "auto"):
        raise SettingsError(f"run.resume = {settings.run.resume}: cross-validation takes never or auto")
    return data.folds


def settings_of_fold(settings: Settings, number: int) -> Settings:
    """Settings of the run in which fold `number` is held out."""
    folder, board, wandb = settings.run.output_dir, settings.tensorboard.dir, settings.wandb
    name = f"fold-{number}"
    return settings.model_copy(
        update={
            "data": settings.data.model_copy(update={"fold": number}),
            "run": settings.run.model_copy(update={"output_dir": folder / name}),
            "wandb": wandb.model_copy(
                update={"name": f"{wandb.name or folder.name}-{name}", "group": wandb.group or folder.name}
            ),
            "tensorboard": settings.tensorboard.model_copy(update={"dir": board and board / name}),
        }
    )


def require_summary(file: Path, fold: Path) -> None:
    """Refuse to replace a scores file that was not written by a cross-validation."""

    if file.exists() and not (fold / PREPROCESSING_FILE).is_file():
        raise CheckpointError(
            f"{file} was not written by a cross-validation: there is no run in {fold.name} next to it; give "
            "another run.output_dir"
        )


def finished_scores(settings: Settings) -> dict[str, Any] | None:
    """With run.resume = auto, the scores of a run that an earlier call has finished; else None.

    Raises:
        CheckpointError: the earlier call had different settings, or its settings or scores cannot be read.
    """

    folder = settings.run.output_dir
    if settings.run.resume != "auto" or not (folder / SCORES_FILE).is_file():
        return None
    require_same_settings(settings)
    try:
        return ScoresFile.read(folder / SCORES_FILE).model_dump()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder / SCORES_FILE}: cannot be read: {error}; remove it, and the run is scored again"
        ) from None


def require_same_settings(settings: Settings) -> None:
    """Refuse the run folder of an earlier run whose scores depend on other settings.

    Raises:
        CheckpointError: they differ, or those of the earlier run cannot be read.
    """
    folder = settings.run.output_dir
    was = settings_of_run(folder)
    there, here = map(_computed, (was, settings))
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]  # another optimizer has other keys
    if differs := [f"{key} = {there.get(key)} there, {here.get(key)} here" for key in keys]:
        raise CheckpointError(
            f"{folder} was trained with other settings: {'; '.join(differs)}; give another output_dir"
        )


def settings_of_run(folder: Path) -> Settings:
    """The settings that a run in this folder had.

    Raises:
        CheckpointError: they cannot be read.
    """
    file = folder / SETTINGS_FILE
    try:
        return Settings(**tomllib.loads(file.read_text(encoding="utf-8")))
    except ValidationError as error:  # of another version
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise CheckpointError(f"{file}: not valid settings for this version: {wrong}; give another folder") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}; give another folder") from None


def _computed(settings: Settings) -> dict[str, Any]:
    """The settings that the scores depend on, by section.key."""
    return {key: value for key, value in flat(settings).items() if not key.startswith(NON_NUMERIC_SETTINGS)}


def flat(settings: Settings) -> dict[str, Any]:
    """The settings by section.key, as JSON has their values."""
    tree = settings.model_dump(mode="json")
    return {f"{section}.{key}": value for section, values in tree.items() for key, value in values.items()}


def summarise(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the scores of all folds.

    Args:
        found: the contents of their scores.json, in order; at least two.

    Returns:
        Scores of each fold, mean and sample standard deviation (n - 1) of F1, and the sums of the counts.
    """
    each = [scores["f1"] for scores in found]
    return {
        "f1": {"mean": statistics.fmean(each), "std": statistics.stdev(each)},
        "folds": [
            {"fold": number} | {key: scores[key] for key in ("f1", "precision", "recall", "loss", "checkpoint")}
            for number, scores in enumerate(found, 1)
        ],
        "counts": {key: sum(scores["counts"][key] for scores in found) for key in found[0]["counts"]},
        "scheme": found[0]["scheme"],
        "split": "eval",
        "box_level": found[0]["box_level"],
    }


def table(summary: dict[str, Any]) -> str:
    folds, counts = summary["folds"], summary["counts"]
    lines = [f"{len(folds)} folds: {counts['documents']} documents, {counts['words']} words, {summary['scheme']}"]
    lines.append(f"  {'held out':12} {'precision':>9} {'recall':>9} {'f1':>9} {'step':>9}")
    lines += [
        f"  {'fold ' + str(f['fold']):12} {f['precision']:9.4f} {f['recall']:9.4f} {f['f1']:9.4f} "
        f"{f['checkpoint']['step']:9d}"
        for f in folds
    ]
    lines.append(f"F1 {summary['f1']['mean']:.4f}, standard deviation {summary['f1']['std']:.4f}")
    return "\n".join(lines)
