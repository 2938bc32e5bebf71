"""Find the folder of a trained model. Does not import torch."""

from pathlib import Path

from layoutner.errors import ModelError
from layoutner.models.preprocessing import PREPROCESSING_FILE
from layoutner.training.checkpoint_files import FOLDER as CHECKPOINTS_FOLDER
from layoutner.training.folder import EXPORT_FOLDER


def model_folder(given: Path, said: str = "--model ") -> Path:
    """The folder of the exported model: the given folder itself, or the export in a run folder.

    Args:
        said: prefix of the path in messages.

    Raises:
        ModelError: neither an export nor a run folder, or a run folder without an export.
    """
    if not given.is_dir():
        raise ModelError(f"{said}{given}: no such folder; `layoutner export RUN OUT` makes one")
    if is_export(given):
        return given
    if is_export(given / EXPORT_FOLDER):
        return given / EXPORT_FOLDER
    if (given / CHECKPOINTS_FOLDER).is_dir():
        raise ModelError(
            f"{said}{given}: is a run folder whose model is not exported yet: run `layoutner export {given} OUT`"
        )
    missing = [name for name in (PREPROCESSING_FILE, "config.json") if not (given / name).is_file()]
    raise ModelError(
        f"{said}{given}: not a model exported by layoutner ({' and '.join(missing)} missing); "
        "`layoutner export RUN OUT` makes one"
    )


def is_export(folder: Path) -> bool:
    """Whether a folder looks like an export."""
    return (folder / PREPROCESSING_FILE).is_file() and (folder / "config.json").is_file()
