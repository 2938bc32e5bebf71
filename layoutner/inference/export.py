"""A checkpoint becomes a Hugging Face folder: weights, configuration, tokenizer, preprocessing."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layoutner.errors import UserError, raise_gathered
from layoutner.training.checkpoint_files import (
    WEIGHTS_FILE,
    checkpoint_path,
    complete_checkpoints,
    read_state,
    verify,
)
from layoutner.training.folder import MODEL_ASSETS_FOLDER, PREPROCESSING_FILE, TRAINING_PAGES_FILE


def chosen_checkpoint(run: Path) -> Path:
    """The best checkpoint of a run on data.eval; the newest where the run had none.

    Raises:
        UserError: not a run folder, or no complete checkpoint in it.
    """
    there = complete_checkpoints(run)
    if not there:
        raise UserError(f"{run}: holds no complete checkpoint, so there is nothing to export")
    best = read_state(there[-1]).best_step
    return there[-1] if best is None else checkpoint_path(run, best)


def require_checkpoints(run: Path) -> list[Path]:
    """All complete checkpoints of a run, oldest first; their contents are not read.

    Raises:
        UserError: not a run folder, or no complete checkpoint in it.
    """
    there = complete_checkpoints(run)
    if not there:
        raise UserError(f"{run}: holds no complete checkpoint; give the run folder, which holds checkpoints/")
    return there


def undamaged_checkpoints(run: Path) -> list[Path]:
    """All checkpoints of a run, oldest first, every byte of them verified.

    Raises:
        UserError: not a run folder, no complete checkpoint in it, or a damaged one.
    """
    there = require_checkpoints(run)
    raise_gathered("damaged", [f"{one}: {problem}" for one in there if (problem := verify(one))])
    return there


@contextmanager
def as_model(checkpoint: Path) -> Iterator[Path]:
    """A checkpoint as a folder like an export, for as long as it is used: links, in a folder of this process.

    Raises:
        UserError: the run folder lacks what a checkpoint is no model without.
    """
    run = checkpoint.parent.parent.resolve()
    if missing := [name for name in (MODEL_ASSETS_FOLDER, PREPROCESSING_FILE) if not (run / name).exists()]:
        raise UserError(f"{run}: {' and '.join(missing)} missing, without which its checkpoints are no models")
    with tempfile.TemporaryDirectory() as folder:
        files = [*(run / MODEL_ASSETS_FOLDER).iterdir(), run / PREPROCESSING_FILE, checkpoint.resolve() / WEIGHTS_FILE]
        if (pages := run / TRAINING_PAGES_FILE).exists():
            files.append(pages)
        for file in files:
            (Path(folder) / file.name).symlink_to(file)
        yield Path(folder)


def export(source: Path, out: Path) -> Path:
    """Export a run (its chosen checkpoint) or one checkpoint of it. Needs neither DeepSpeed nor a pickle.

    Args:
        source: a run folder, or RUN/checkpoints/step-NNNNNN.
        out: a folder that does not exist yet, or is empty.

    Returns:
        The checkpoint exported.

    Raises:
        UserError: nothing to export, or something is in the way at `out`.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: there is something already; export into a new folder")
    is_checkpoint = (source / WEIGHTS_FILE).is_file() and source.parent.name == "checkpoints"
    checkpoint = source if is_checkpoint else chosen_checkpoint(source)
    run = checkpoint.parent.parent
    if problem := verify(checkpoint):
        raise UserError(f"{checkpoint}: damaged, so it is not exported: {problem}")
    out = out.resolve()
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(run / MODEL_ASSETS_FOLDER, partial)
        shutil.copyfile(run / PREPROCESSING_FILE, partial / PREPROCESSING_FILE)
        if (run / TRAINING_PAGES_FILE).exists():  # runs of the first version have none
            shutil.copyfile(run / TRAINING_PAGES_FILE, partial / TRAINING_PAGES_FILE)
        shutil.copyfile(checkpoint / WEIGHTS_FILE, partial / WEIGHTS_FILE)
        partial.rename(out)  # an empty folder gives way
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"{checkpoint} could not be exported to {out}: {error}") from None
    return checkpoint
