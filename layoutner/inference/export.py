"""Export a checkpoint as a Hugging Face folder: weights, configuration, tokenizer, preprocessing and model card."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from layoutner.errors import CheckpointError, LayoutnerError, ModelError, SettingsError, raise_gathered
from layoutner.files.atomic import atomic_folder
from layoutner.models.preprocessing import PREPROCESSING_FILE, Preprocessing
from layoutner.objectives.calibration import CALIBRATION_FILE, Calibration
from layoutner.publishing.model_card import write_card
from layoutner.training.checkpoint_files import (
    WEIGHTS_FILE,
    checkpoint_path,
    complete_checkpoints,
    read_record,
    step_of,
    verify,
)
from layoutner.training.folder import MODEL_ASSETS_FOLDER, TRAINING_PAGES_FILE

if TYPE_CHECKING:
    from layoutner.backends.onnx_export import OnnxCheck


def chosen_checkpoint(run: Path) -> Path:
    """The best checkpoint of a run on data.eval; without data.eval, the newest one.

    Raises:
        CheckpointError: not a run folder, or no complete checkpoint in it.
    """
    there = complete_checkpoints(run)
    if not there:
        raise CheckpointError(f"{run}: holds no complete checkpoint, so there is nothing to export")
    best = read_record(there[-1]).state.best_step
    return there[-1] if best is None else checkpoint_path(run, best)


def require_checkpoints(run: Path) -> list[Path]:
    """All complete checkpoints of a run, oldest first. Their contents are not verified.

    Raises:
        CheckpointError: not a run folder, or no complete checkpoint in it.
    """
    there = complete_checkpoints(run)
    if not there:
        raise CheckpointError(f"{run}: holds no complete checkpoint; give the run folder, which holds checkpoints/")
    return there


def undamaged_checkpoints(run: Path) -> list[Path]:
    """All checkpoints of a run, oldest first, after verifying their checksums.

    Raises:
        CheckpointError: not a run folder, no complete checkpoint in it, or a damaged one.
    """
    there = require_checkpoints(run)
    raise_gathered(CheckpointError, "damaged", [f"{one}: {problem}" for one in there if (problem := verify(one))])
    return there


@contextmanager
def as_model(checkpoint: Path) -> Iterator[Path]:
    """A temporary folder with symbolic links to the files of a checkpoint, laid out like an export.

    Raises:
        CheckpointError: the run folder lacks the model config or the preprocessing file.
    """
    run = checkpoint.parent.parent.resolve()
    if missing := [name for name in (MODEL_ASSETS_FOLDER, PREPROCESSING_FILE) if not (run / name).exists()]:
        raise CheckpointError(f"{run}: {' and '.join(missing)} missing, so its checkpoints cannot be exported")
    with tempfile.TemporaryDirectory() as folder:
        files = [*(run / MODEL_ASSETS_FOLDER).iterdir(), run / PREPROCESSING_FILE, checkpoint.resolve() / WEIGHTS_FILE]
        if (pages := run / TRAINING_PAGES_FILE).exists():
            files.append(pages)
        for file in files:
            (Path(folder) / file.name).symlink_to(file)
        yield Path(folder)


def export(source: Path, out: Path) -> Path:
    """Export the chosen checkpoint of a run, or a given checkpoint. Needs neither DeepSpeed nor pickle.

    Args:
        source: a run folder, or RUN/checkpoints/step-NNNNNN.
        out: a folder that does not exist yet, or is empty.

    Returns:
        The checkpoint exported.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        SettingsError: `out` exists and is not an empty folder.
        ModelError: the export could not be written, or the run has no valid layoutner.json.
    """

    def copy_weights(checkpoint: Path, partial: Path) -> None:
        shutil.copyfile(checkpoint / WEIGHTS_FILE, partial / WEIGHTS_FILE)

    return _export(source, out, copy_weights)


def export_onnx(source: Path, out: Path) -> "tuple[Path, OnnxCheck]":
    """Export as `export` does, with an ONNX graph in place of the weights. It is written and checked on the CPU.

    Args:
        source, out: see `export`.

    Returns:
        The checkpoint exported, and how far the graph is from torch.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        SettingsError: `out` exists and is not an empty folder, or a package is missing.
        ModelError: as `export`; or the family cannot be exported to ONNX, or not exactly.
    """
    from layoutner.backends.onnx_export import write_onnx

    checks: list[OnnxCheck] = []

    def write_graph(checkpoint: Path, partial: Path) -> str:
        try:
            preprocessing = Preprocessing.read(partial / PREPROCESSING_FILE)
        except ValueError as error:
            raise ModelError(f"{checkpoint} cannot be exported: {PREPROCESSING_FILE}: {error}") from None
        with as_model(checkpoint) as model:
            preprocessing, check = write_onnx(model, preprocessing, partial)
        preprocessing.write(partial / PREPROCESSING_FILE)
        checks.append(check)
        return str(check)

    return _export(source, out, write_graph), checks[0]


def _export(source: Path, out: Path, write_network: Callable[[Path, Path], str | None]) -> Path:
    """See `export`.

    Args:
        write_network: called with the checkpoint, and the folder with all other files but the card. Returns what the
            card says of an ONNX graph.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out}: already exists; give a new folder")
    is_checkpoint = (source / WEIGHTS_FILE).is_file() and source.parent.name == "checkpoints"
    checkpoint = source if is_checkpoint else chosen_checkpoint(source)
    run = checkpoint.parent.parent
    if problem := verify(checkpoint):
        raise CheckpointError(f"{checkpoint}: damaged, so it is not exported: {problem}")
    out = out.resolve()
    try:
        with atomic_folder(out) as partial:
            shutil.copytree(run / MODEL_ASSETS_FOLDER, partial, dirs_exist_ok=True)
            shutil.copyfile(run / PREPROCESSING_FILE, partial / PREPROCESSING_FILE)
            if (run / TRAINING_PAGES_FILE).exists():  # older runs have no such file
                shutil.copyfile(run / TRAINING_PAGES_FILE, partial / TRAINING_PAGES_FILE)
            write_card(checkpoint, partial, write_network(checkpoint, partial))
            if (temperature := _temperature(checkpoint)) is not None:
                set_temperature(partial, temperature)
    except OSError as error:
        raise ModelError(f"{checkpoint} could not be exported to {out}: {error}") from None
    return checkpoint


def set_temperature(folder: Path, temperature: float) -> None:
    """Write the temperature of a model's probabilities into its folder.

    Raises:
        ModelError: the folder has no valid layoutner.json.
    """
    file = folder / PREPROCESSING_FILE
    try:
        Preprocessing.read(file).model_copy(update={"temperature": temperature}).write(file)
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: {error}") from None


def _temperature(checkpoint: Path) -> float | None:
    """The temperature that a run has fitted for its checkpoint; None if it has none, or one of another checkpoint."""
    try:
        found = Calibration.read(checkpoint.parent.parent / CALIBRATION_FILE)
    except (LayoutnerError, OSError, ValueError):  # it is no reason not to export
        return None
    return found.temperature if found.step == step_of(checkpoint) else None
