"""The run folder: settings, DeepSpeed config, environment and results of a run, and its lock."""

import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layoutner import __version__
from layoutner.distributed.machine import available_cpus
from layoutner.documents.columns import distinct
from layoutner.errors import CheckpointError, DataError, ModelError, SettingsError
from layoutner.files.arrays import Array
from layoutner.files.atomic import remove, write_text
from layoutner.files.lock import Lock
from layoutner.files.text import read_text
from layoutner.models.preprocessing import PREPROCESSING_FILE, Preprocessing
from layoutner.objectives.calibration import CALIBRATION_FILE
from layoutner.settings.tree import Settings
from layoutner.tracking.trackers import METRICS_FILE, TENSORBOARD_FOLDER
from layoutner.tracking.wandb_tracker import WANDB_ID_FILE
from layoutner.training.checkpoint_files import FOLDER as CHECKPOINTS_FOLDER
from layoutner.training.checkpoint_files import WEIGHTS_FILE, complete_checkpoints, is_own

if TYPE_CHECKING:
    from layoutner.distributed.ranks import Ranks

MODEL_ASSETS_FOLDER = "model"
SCORES_FILE = "scores.json"
ERRORS_FILE = "errors.json"  # what the scored model got wrong
PLAN_FILE = "plan.txt"  # the plan as it is logged
TRAINING_PAGES_FILE = "training_pages.txt"  # digests of the pages trained on, one per line; part of every export
CONFIG_FILE = "ds_config.json"
SETTINGS_FILE = "settings.toml"
ENVIRONMENT_FILE = "environment.json"
LOCK_FILE = ".lock"
EXPORT_FOLDER = "export"
CARD_FILE = "README.md"  # in an export: the model card
PREDICTION_FILES = {"jsonl": "test_predictions.jsonl", "unilm": "test_predictions.txt"}  # by run.predictions
RESULTS_FILE = "test_results.txt"

# RESULTS: what a finished run leaves. LEFT: also what it resumes from; run.overwrite removes LEFT, in this order.
# RECORD and the metrics are not removed, but written again. Unsent Weights & Biases runs are kept.
RESULTS = (EXPORT_FOLDER, SCORES_FILE, ERRORS_FILE, CALIBRATION_FILE, RESULTS_FILE, *PREDICTION_FILES.values())
LEFT = (*RESULTS, MODEL_ASSETS_FOLDER, CHECKPOINTS_FOLDER)
# Files that describe the run. The first one is written first and marks a folder as a run folder.
RECORD = (PREPROCESSING_FILE, TRAINING_PAGES_FILE, CONFIG_FILE, SETTINGS_FILE, PLAN_FILE, ENVIRONMENT_FILE)
# Files that other trainers write to the top level of their output folder, and layoutner does not.
MODEL_FILES = ("config.json", "model.safetensors", "pytorch_model.bin", "training_args.bin")
LARGEST_TRAINING_PAGES = 2**32  # maximum bytes of the file of digests; 17 per page
PROBED_S = 1.0  # how long a lock may be held by one who only looks whether it is, `layoutner status`
RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")  # above 0: this job has run before

# Run folders that this process has locked -> lock file. `held_folders` releases them.
_held: dict[Path, Lock] = {}


@contextmanager
def held_folders() -> Iterator[None]:
    """Release all locked run folders at exit. The lock must outlast training, because a run also writes afterwards."""
    try:
        yield
    finally:
        while _held:
            _held.popitem()[1].release()


def require_folder(settings: Settings) -> None:
    """Create and lock the run folder. Only rank 0 calls this, before a model is loaded.

    Raises:
        CheckpointError: the folder cannot be written; another run is writing there; it contains files that are not
            layoutner's and would be replaced; or, without run.overwrite, results of a run that is not resumed.
        SettingsError: run.overwrite would remove files that this run uses, or that an earlier start of the same job has
            saved.
    """
    folder = settings.run.output_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise CheckpointError(f"run.output_dir = {folder}: cannot be written: {error}") from None
    require_replaceable(settings)
    _hold(folder)


def require_replaceable(settings: Settings) -> None:
    """Refuse a run folder with files that must not be replaced. Changes nothing.

    Raises:
        CheckpointError, SettingsError: as `require_folder`, except for a folder that cannot be written or is locked.
    """
    run, folder = settings.run, settings.run.output_dir
    if models := [name for name in MODEL_FILES if (folder / name).exists()]:
        raise CheckpointError(
            f"run.output_dir = {folder} holds a model that layoutner did not make ({', '.join(models)}), which would "
            "be mistaken for this run's: give another run.output_dir"
        )
    there = [name for name in (METRICS_FILE, *RECORD, *LEFT) if _holds_anything(folder / name)]
    complete = complete_checkpoints(folder)
    # A run may resume from checkpoints that were copied here without the other files of their run.
    copied = (CHECKPOINTS_FOLDER, METRICS_FILE) if complete and run.resume != "never" else ()
    unclaimed = [name for name in there if name not in copied]
    if unclaimed and not (folder / PREPROCESSING_FILE).is_file():
        raise CheckpointError(
            f"run.output_dir = {folder} holds {', '.join(unclaimed)}, but it is no run folder of layoutner "
            f"({PREPROCESSING_FILE} is missing), so nothing in it is replaced; give another run.output_dir"
        )
    if strangers := _strangers(folder, run.overwrite):
        raise CheckpointError(
            f"run.output_dir = {folder}: this run would remove what layoutner did not write: {', '.join(strangers)}; "
            "move it elsewhere, or give another run.output_dir"
        )
    if run.overwrite:
        _require_removable(settings)
    elif (results := [name for name in there if name in RESULTS]) and not complete:
        raise CheckpointError(
            f"run.output_dir = {folder} holds {', '.join(results)} of a run whose checkpoints are missing: to "
            "start again, give another run.output_dir, or run.overwrite = true, which removes them"
        )


def _holds_anything(path: Path) -> bool:
    """Whether a path exists and is not empty. A run that ended before its first step may leave an empty file."""
    if path.is_dir():
        return any(path.iterdir())
    return path.is_symlink() or (path.exists() and path.stat().st_size > 0)


def _strangers(folder: Path, overwrite: bool) -> list[str]:
    """Files that are not layoutner's in folders to be replaced: the export and, with overwrite, the checkpoints."""
    export, checkpoints = folder / EXPORT_FOLDER, folder / CHECKPOINTS_FOLDER
    found = []
    if export.is_symlink() or export.is_file() or (_visible(export) and not (export / PREPROCESSING_FILE).is_file()):
        found.append(export)
    elif model_assets := _visible(folder / MODEL_ASSETS_FOLDER):
        own = {PREPROCESSING_FILE, TRAINING_PAGES_FILE, WEIGHTS_FILE, CARD_FILE, *model_assets}
        found += [export / name for name in _visible(export) if name not in own]
    if overwrite:
        found += [checkpoints / name for name in _visible(checkpoints) if not is_own(name)]
    return [str(path.relative_to(folder)) for path in found]


def _visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def reacquire_lock(folder: Path) -> None:
    """Lock the folder of an earlier run again, before its checkpoints are read. Only rank 0 calls it.

    Raises:
        CheckpointError: another run is writing there.
    """
    if (folder / LOCK_FILE).exists():
        _hold(folder)


def _hold(folder: Path) -> None:
    """Lock a run folder until `held_folders` ends. If this process dies, the system releases the lock."""
    held = _held.get(folder.resolve())
    if held is None or not held.is_in_place():
        if held is not None:
            held.release()  # of a folder of this name that is gone
        _held[folder.resolve()] = lock(folder)


def lock(folder: Path) -> Lock:
    """The lock of a run folder, until it is released. Where the file system has no locks it keeps nobody out.

    Raises:
        CheckpointError: another process has the lock, or the lock file cannot be written.
    """
    path = folder / LOCK_FILE
    try:
        held = Lock(path, timeout=PROBED_S)
        path.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")  # for those who wait
    except TimeoutError:
        who = path.read_text(encoding="utf-8", errors="replace").strip() or "unknown process"
        raise CheckpointError(
            f"run.output_dir = {folder}: another run is writing there ({who}): wait for its end, or give another "
            "run.output_dir"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}; give another run.output_dir") from None
    return held


def _require_removable(settings: Settings) -> None:
    """The checks of `require_folder` that apply with run.overwrite."""
    data, folder = settings.data, settings.run.output_dir
    uses = [settings.model.name_or_path, data.train, data.eval, data.test, data.labels]
    paths = [Path(path).resolve() for path in (*uses, settings.tensorboard.dir) if isinstance(path, str | Path)]
    own = [str(path) for path in paths if any(path.is_relative_to((folder / name).resolve()) for name in LEFT)]
    if own:
        raise SettingsError(
            f"run.overwrite = true would remove what this run uses: {', '.join(own)}; move it elsewhere"
        )
    if restarts := [f"{name} = {os.environ[name]}" for name in RESTARTS if os.environ.get(name, "0") != "0"]:
        raise SettingsError(
            f"run.overwrite = true in a restarted job ({', '.join(restarts)}): it would remove what it has saved; "
            "to continue from there, set run.resume = auto and run.overwrite = false"
        )


def read_training_pages(folder: Path) -> Array | None:
    """Digests of the pages that the model of a run or export was trained on, sorted; None if the file does not exist.

    Raises:
        ModelError: the file cannot be read.
    """
    file = folder / TRAINING_PAGES_FILE
    try:
        text = read_text(file, LARGEST_TRAINING_PAGES) if file.is_file() else None
    except DataError as error:
        raise ModelError(str(error)) from None
    if text is None:
        return None
    try:
        return distinct(np.frombuffer(bytes.fromhex(text), ">u8").astype(np.uint64))
    except ValueError:
        raise ModelError(f"{file}: holds something else than digests of 16 hexadecimal digits, one per line") from None


def open_folder(
    settings: Settings,
    ds_config: dict[str, Any],
    preprocessing: Preprocessing,
    training_pages: Array,
    plan: str,
    ranks: "Ranks",
) -> None:
    """Write the files that describe the run; with run.overwrite, remove the earlier run first. Only rank 0 calls this.

    Args:
        training_pages: digests of the pages that the model will have been trained on at the end of the run, uint64.
        plan: the plan as text.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    folder = settings.run.output_dir
    try:
        if settings.run.overwrite:
            _remove_run(settings)
        preprocessing.write(folder / PREPROCESSING_FILE)
        write_text(folder / TRAINING_PAGES_FILE, _lines(training_pages))
        write_json(folder / CONFIG_FILE, ds_config)
        write_text(folder / SETTINGS_FILE, settings.to_toml())
        write_text(folder / PLAN_FILE, plan + "\n")
        write_json(folder / ENVIRONMENT_FILE, environment(ranks))
    except OSError as error:
        raise CheckpointError(f"run.output_dir = {folder}: cannot be written: {error}") from None


def _lines(digests: Array) -> str:
    """One digest per line, in hexadecimal."""
    return digests.astype(">u8").tobytes().hex("\n", 8) + "\n" * bool(len(digests))


def _remove_run(settings: Settings) -> None:
    # Keep the files of trackers that this run uses: they are already open, and have started again.
    names = [
        *LEFT,
        *([] if settings.tensorboard.enabled else [TENSORBOARD_FOLDER]),
        *([] if settings.wandb.mode != "disabled" else [WANDB_ID_FILE]),
    ]
    for path in (settings.run.output_dir / name for name in names):
        remove(path)


def save_model_assets(folder: Path, model: Any, tokenizer: Any, image_processor: Any, dtype: str) -> None:
    """Save the model's files except the weights: with a weights file, they form a complete Hugging Face model.

    Args:
        image_processor: None if the network does not use page images.
    """
    model.config.architectures = [type(model).__name__]
    model.config.dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[dtype]
    model.config.save_pretrained(folder / MODEL_ASSETS_FOLDER)
    tokenizer.save_pretrained(folder / MODEL_ASSETS_FOLDER)
    if image_processor is not None:
        image_processor.save_pretrained(folder / MODEL_ASSETS_FOLDER)


def environment(ranks: "Ranks") -> dict[str, Any]:
    """Versions, commit, ranks and device. No environment variables, which may contain secrets."""
    packages = ("torch", "deepspeed", "transformers", "tokenizers", "pydantic", "wandb")
    return {
        "layoutner": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "world_size": ranks.size,
        "device": ranks.device_name,
        "cpus": available_cpus(),
        "platform": platform.platform(),
    }


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, as `write_text` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _git_commit() -> str | None:
    """Git commit of layoutner, if it runs from a checkout; else None."""
    top = Path(__file__).parents[2]
    if not (top / ".git").exists():
        return None
    command = ["git", "-C", str(top), "rev-parse", "HEAD"]
    try:
        # Capture bytes, not text: git's error messages may contain paths in any encoding.
        return subprocess.run(command, capture_output=True, check=True, timeout=10).stdout.decode("ascii").strip()
    except (OSError, subprocess.SubprocessError):
        return None
