"""The folder of a trained model, found and looked at before torch is imported."""

from pathlib import Path

from layoutner.errors import ModelError
from layoutner.training.checkpoint_files import FOLDER as CHECKPOINTS_FOLDER
from layoutner.training.folder import EXPORT_FOLDER, PREPROCESSING_FILE


def model_folder(given: Path, said: str = "--model ") -> Path:
    """The model that a user means: an export itself, or that of a run folder.

    Args:
        said: what messages call it, before its path.

    Raises:
        ModelError: neither, or a run folder without an export.
    """
    if not given.is_dir():
        raise ModelError(f"{said}{given}: no such folder; `layoutner export RUN OUT` makes one")
    if is_export(given):
        return given
    if is_export(given / EXPORT_FOLDER):
        return given / EXPORT_FOLDER
    if (given / CHECKPOINTS_FOLDER).is_dir():
        raise ModelError(
            f"{said}{given}: is a run folder whose model is not exported yet: `layoutner export {given} OUT` does it"
        )
    missing = [name for name in (PREPROCESSING_FILE, "config.json") if not (given / name).is_file()]
    raise ModelError(
        f"{said}{given}: not a model exported by layoutner ({' and '.join(missing)} missing); "
        "`layoutner export RUN OUT` makes one"
    )


def is_export(folder: Path) -> bool:
    """Whether a folder looks like what an export leaves."""
    return (folder / PREPROCESSING_FILE).is_file() and (folder / "config.json").is_file()
