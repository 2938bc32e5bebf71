"""The run folder as a record: what was asked, what DeepSpeed was given, where it ran, what came out."""

import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layoutner import __version__
from layoutner.distributed.machine import available_cpus
from layoutner.errors import CheckpointError, DataError, ModelError, SettingsError
from layoutner.files.atomic import remove, write_text
from layoutner.files.lock import Lock
from layoutner.files.text import read_text
from layoutner.settings.tree import Settings
from layoutner.training.checkpoint_files import FOLDER as CHECKPOINTS_FOLDER
from layoutner.training.checkpoint_files import WEIGHTS_FILE, complete_checkpoints, is_own
from layoutner.training.tracking import METRICS_FILE, TENSORBOARD_FOLDER, WANDB_ID_FILE

if TYPE_CHECKING:
    from layoutner.distributed.ranks import Ranks

MODEL_ASSETS_FOLDER = "model"
SCORES_FILE = "scores.json"
PREPROCESSING_FILE = "layoutner.json"  # how documents become the network's input; travels with every export
TRAINING_PAGES_FILE = "training_pages.txt"  # a digest per line of the pages trained on; travels with every export
CONFIG_FILE = "ds_config.json"
SETTINGS_FILE = "settings.toml"
ENVIRONMENT_FILE = "environment.json"
LOCK_FILE = ".lock"
EXPORT_FOLDER = "export"
PREDICTION_FILES = {"jsonl": "test_predictions.jsonl", "unilm": "test_predictions.txt"}  # by run.predictions
RESULTS_FILE = "test_results.txt"

# What a run that is done leaves. With what it goes on from, all that it leaves beside its record and its metrics, which
# begin anew: what run.overwrite removes, in this order. Runs of Weights & Biases that are not sent yet stay.
RESULTS = (EXPORT_FOLDER, SCORES_FILE, RESULTS_FILE, *PREDICTION_FILES.values())
LEFT = (*RESULTS, MODEL_ASSETS_FOLDER, CHECKPOINTS_FOLDER)
# The first is written first, and marks a run folder.
RECORD = (PREPROCESSING_FILE, TRAINING_PAGES_FILE, CONFIG_FILE, SETTINGS_FILE, ENVIRONMENT_FILE)
# What no run leaves at the top of its folder, and other trainers do.
MODEL_FILES = ("config.json", "model.safetensors", "pytorch_model.bin", "training_args.bin")
LARGEST_TRAINING_PAGES = 2**32  # bytes of the digests: 17 a page
RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")  # above 0: this job has run before

# Run folders that this process writes to, with their locks; `held_folders` lets go of them.
_held: dict[Path, Lock] = {}


@contextmanager
def held_folders() -> Iterator[None]:
    """Let go, at the end, of the run folders that are held in here: a run writes there after its training too."""
    try:
        yield
    finally:
        while _held:
            _held.popitem()[1].release()


def require_folder(settings: Settings) -> None:
    """Make the run folder, and keep other runs out of it. Rank 0 alone calls this, before a model is loaded.

    Raises:
        CheckpointError: the folder cannot be written, or another run is writing there; it holds what no run of
            layoutner has left and this one would replace, or results of a run that this one does not go on from,
            without run.overwrite.
        SettingsError: run.overwrite would take away what this run itself reads or writes, or what an earlier start of
            the same job has saved.
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
    """Refuse a run folder in which something stands that must not be replaced. Changes nothing.

    Raises:
        CheckpointError, SettingsError: as `require_folder`, but for a folder that cannot be written and for another run
            that writes there.
    """
    run, folder = settings.run, settings.run.output_dir
    if models := [name for name in MODEL_FILES if (folder / name).exists()]:
        raise CheckpointError(
            f"run.output_dir = {folder} holds a model that layoutner did not make ({', '.join(models)}), which would "
            "be taken for this run's: give another run.output_dir"
        )
    there = [name for name in (METRICS_FILE, *RECORD, *LEFT) if _holds_anything(folder / name)]
    complete = complete_checkpoints(folder)
    # A run may go on from checkpoints that stand without their record, as where they were copied.
    copied = (CHECKPOINTS_FOLDER, METRICS_FILE) if complete and run.resume != "never" else ()
    unclaimed = [name for name in there if name not in copied]
    if unclaimed and not (folder / PREPROCESSING_FILE).is_file():
        raise CheckpointError(
            f"run.output_dir = {folder} holds {', '.join(unclaimed)}, but it is no run folder of layoutner "
            f"({PREPROCESSING_FILE} is missing), so it stays; give another run.output_dir"
        )
    if strangers := _strangers(folder, run.overwrite):
        raise CheckpointError(
            f"run.output_dir = {folder}: not of layoutner, which would remove it: {', '.join(strangers)}; move it "
            "elsewhere, or give another run.output_dir"
        )
    if run.overwrite:
        _require_removable(settings)
    elif (results := [name for name in there if name in RESULTS]) and not complete:
        raise CheckpointError(
            f"run.output_dir = {folder} holds {', '.join(results)} of a run whose checkpoints are gone: to start "
            "afresh give another run.output_dir, or run.overwrite = true, which removes them"
        )


def _holds_anything(path: Path) -> bool:
    """Whether something stands there. An empty file may be that of a run that ended before it had begun."""
    if path.is_dir():
        return any(path.iterdir())
    return path.is_symlink() or (path.exists() and path.stat().st_size > 0)


def _strangers(folder: Path, overwrite: bool) -> list[str]:
    """What somebody else has put into the export, which is made anew, and with overwrite beside the checkpoints."""
    export, checkpoints = folder / EXPORT_FOLDER, folder / CHECKPOINTS_FOLDER
    found = []
    if export.is_symlink() or export.is_file() or (_visible(export) and not (export / PREPROCESSING_FILE).is_file()):
        found.append(export)
    elif model_assets := _visible(folder / MODEL_ASSETS_FOLDER):
        own = {PREPROCESSING_FILE, TRAINING_PAGES_FILE, WEIGHTS_FILE, *model_assets}
        found += [export / name for name in _visible(export) if name not in own]
    if overwrite:
        found += [checkpoints / name for name in _visible(checkpoints) if not is_own(name)]
    return [str(path.relative_to(folder)) for path in found]


def _visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def reacquire_lock(folder: Path) -> None:
    """Keep other runs out of a folder that a run has written to, before its checkpoints are looked at. Rank 0 alone.

    Raises:
        CheckpointError: another run is writing there.
    """
    if (folder / LOCK_FILE).exists():
        _hold(folder)


def _hold(folder: Path) -> None:
    """Let no other process write here until `held_folders` ends, or this process, however it ends."""
    held = _held.get(folder.resolve())
    if held is None or not held.is_in_place():
        if held is not None:
            held.release()  # of a folder of this name that is gone
        _held[folder.resolve()] = lock(folder)


def lock(folder: Path) -> Lock:
    """The lock of a run folder, until it is released. Where the file system has no locks it keeps nobody out.

    Raises:
        CheckpointError: another process holds it, or it cannot be written.
    """
    path = folder / LOCK_FILE
    try:
        held = Lock(path)
        path.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")  # for those who wait
    except TimeoutError:
        who = path.read_text(encoding="utf-8", errors="replace").strip() or "it does not say"
        raise CheckpointError(
            f"run.output_dir = {folder}: another run is writing there ({who}): wait for its end, or give another "
            "run.output_dir"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}; give another run.output_dir") from None
    return held


def _require_removable(settings: Settings) -> None:
    """What `require_folder` demands with run.overwrite."""
    data, folder = settings.data, settings.run.output_dir
    uses = [settings.model.name_or_path, data.train, data.eval, data.test, data.labels, data.cache]
    paths = [Path(path).resolve() for path in (*uses, settings.tensorboard.dir) if isinstance(path, str | Path)]
    own = [str(path) for path in paths if any(path.is_relative_to((folder / name).resolve()) for name in LEFT)]
    if own:
        raise SettingsError(
            f"run.overwrite = true would remove what this run uses: {', '.join(own)}; give another place"
        )
    if restarts := [f"{name} = {os.environ[name]}" for name in RESTARTS if os.environ.get(name, "0") != "0"]:
        raise SettingsError(
            f"run.overwrite = true in a job that was started before ({', '.join(restarts)}): it would remove what it "
            "has saved; run.resume = auto with run.overwrite = false goes on from there"
        )


def read_training_pages(folder: Path) -> frozenset[str] | None:
    """Digests of the pages that the model of a run or an export was trained on; None where it does not say.

    Raises:
        ModelError: the file cannot be read.
    """
    file = folder / TRAINING_PAGES_FILE
    try:
        return frozenset(read_text(file, LARGEST_TRAINING_PAGES).split()) if file.is_file() else None
    except DataError as error:
        raise ModelError(str(error)) from None


def open_folder(
    settings: Settings,
    ds_config: dict[str, Any],
    preprocessing: dict[str, Any],
    training_pages: Iterable[str],
    ranks: "Ranks",
) -> None:
    """Write the record of the run, with run.overwrite in place of an earlier run. Rank 0 alone calls this.

    Args:
        training_pages: digests of the pages that the model has been trained on when the run ends.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    folder = settings.run.output_dir
    try:
        if settings.run.overwrite:
            _remove_run(settings)
        write_json(folder / PREPROCESSING_FILE, preprocessing)
        write_text(folder / TRAINING_PAGES_FILE, "".join(f"{digest}\n" for digest in training_pages))
        write_json(folder / CONFIG_FILE, ds_config)
        write_text(folder / SETTINGS_FILE, settings.to_toml())
        write_json(folder / ENVIRONMENT_FILE, environment(ranks))
    except OSError as error:
        raise CheckpointError(f"run.output_dir = {folder}: cannot be written: {error}") from None


def _remove_run(settings: Settings) -> None:
    # Trackers are open already, and have begun anew where this run has them.
    names = [
        *LEFT,
        *([] if settings.tensorboard.enabled else [TENSORBOARD_FOLDER]),
        *([] if settings.wandb.mode != "disabled" else [WANDB_ID_FILE]),
    ]
    for path in (settings.run.output_dir / name for name in names):
        remove(path)


def save_model_assets(folder: Path, model: Any, tokenizer: Any, image_processor: Any, dtype: str) -> None:
    """All of the model in training but its weights: with them beside it, a whole checkpoint.

    Args:
        image_processor: None where the network does not see page images.
    """
    model.config.architectures = [type(model).__name__]
    model.config.dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[dtype]
    model.config.save_pretrained(folder / MODEL_ASSETS_FOLDER)
    tokenizer.save_pretrained(folder / MODEL_ASSETS_FOLDER)
    if image_processor is not None:
        image_processor.save_pretrained(folder / MODEL_ASSETS_FOLDER)


def environment(ranks: "Ranks") -> dict[str, Any]:
    """Versions, commit, ranks and device; no variable of the environment, so no secret."""
    packages = ("torch", "deepspeed", "transformers", "tokenizers", "pydantic", "seqeval", "wandb")
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
    """Write as `write_text` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _git_commit() -> str | None:
    """Commit of the layoutner that runs, where it runs from a checkout."""
    top = Path(__file__).parents[2]
    if not (top / ".git").exists():
        return None
    command = ["git", "-C", str(top), "rev-parse", "HEAD"]
    try:
        # What git complains of may name a path in any encoding.
        return subprocess.run(command, capture_output=True, check=True, timeout=10).stdout.decode("ascii").strip()
    except (OSError, subprocess.SubprocessError):
        return None
