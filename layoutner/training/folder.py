"""The run folder as a record: what was asked, what DeepSpeed was given, where it ran, what came out."""

import json
import os
import platform
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from layoutner import __version__
from layoutner.config.errors import UserError
from layoutner.config.settings import Settings
from layoutner.training.checkpoint import FOLDER as CHECKPOINTS_FOLDER
from layoutner.training.checkpoint import complete_checkpoints
from layoutner.training.tracking import TENSORBOARD_FOLDER, WANDB_ID_FILE
from layoutner.training.world import World

SKELETON_FOLDER = "model"
SCORES_FILE = "scores.json"
PREPROCESSING_FILE = "layoutner.json"  # how documents become the network's input; travels with every export
CONFIG_FILE = "ds_config.json"
EXPORT_FOLDER = "export"
PREDICTION_FILES = {"jsonl": "test_predictions.jsonl", "unilm": "test_predictions.txt"}  # by run.predictions
RESULTS_FILE = "test_results.txt"

# What a run that is done leaves. With what it goes on from, all that it leaves beside its record and its metrics, which
# begin anew: what run.overwrite removes. Runs of Weights & Biases that are not sent yet stay.
RESULTS = (EXPORT_FOLDER, SCORES_FILE, RESULTS_FILE, *PREDICTION_FILES.values())
LEFT = (CHECKPOINTS_FOLDER, SKELETON_FOLDER, *RESULTS)
# What no run leaves at the top of its folder, and other trainers do.
MODEL_FILES = ("config.json", "model.safetensors", "pytorch_model.bin", "training_args.bin")
RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")  # above 0: this job has run before


def demand_folder(settings: Settings) -> None:
    """Make the run folder. Rank 0 alone calls this, before a model is loaded.

    Raises:
        UserError: the folder cannot be written; it holds what no run of layoutner has left, or results of a run that
            this one does not go on from, without run.overwrite; run.overwrite would take away what this run itself
            reads or writes, or what an earlier start of the same job has saved.
    """
    run, folder = settings.run, settings.run.output_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"run.output_dir = {folder}: cannot be written: {error}") from None
    if models := [name for name in MODEL_FILES if (folder / name).exists()]:
        raise UserError(
            f"run.output_dir = {folder} holds a model that layoutner did not make ({', '.join(models)}), which would "
            "be taken for this run's: give another run.output_dir"
        )
    # A run may go on from checkpoints that stand without their record, as where they alone were copied.
    there = [name for name in (LEFT if run.resume == "never" else RESULTS) if (folder / name).exists()]
    if there and not all((folder / name).is_file() for name in (CONFIG_FILE, PREPROCESSING_FILE)):
        raise UserError(
            f"run.output_dir = {folder} holds {', '.join(there)}, but it is no run folder of layoutner "
            f"({CONFIG_FILE} or {PREPROCESSING_FILE} is missing), so it stays; give another run.output_dir"
        )
    export = folder / EXPORT_FOLDER
    if export.exists() and not (export / PREPROCESSING_FILE).is_file():
        raise UserError(f"{export} is not of layoutner, which would replace it at the end; give another run.output_dir")
    if run.overwrite:
        _demand_removable(settings)
    elif (results := [name for name in there if name in RESULTS]) and not complete_checkpoints(folder):
        raise UserError(
            f"run.output_dir = {folder} holds {', '.join(results)} of a run whose checkpoints are gone: to start "
            "afresh give another run.output_dir, or run.overwrite = true, which removes them"
        )


def _demand_removable(settings: Settings) -> None:
    """What `demand_folder` demands with run.overwrite."""
    data, folder = settings.data, settings.run.output_dir
    uses = [settings.model.name_or_path, data.train, data.eval, data.test, data.labels, data.cache]
    paths = [Path(path).resolve() for path in (*uses, settings.tensorboard.dir) if isinstance(path, str | Path)]
    own = [str(path) for path in paths if any(path.is_relative_to((folder / name).resolve()) for name in LEFT)]
    if own:
        raise UserError(f"run.overwrite = true would remove what this run uses: {', '.join(own)}; give another place")
    if restarts := [f"{name} = {os.environ[name]}" for name in RESTARTS if os.environ.get(name, "0") != "0"]:
        raise UserError(
            f"run.overwrite = true in a job that was started before ({', '.join(restarts)}): it would remove what it "
            "has saved; run.resume = auto with run.overwrite = false goes on from there"
        )


def open_folder(settings: Settings, ds_config: dict[str, Any], preprocessing: dict[str, Any], world: World) -> None:
    """Write the record of the run, with run.overwrite in place of an earlier run. Rank 0 alone calls this.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = settings.run.output_dir
    try:
        if settings.run.overwrite:
            _remove_run(settings)
        (folder / "settings.toml").write_text(settings.to_toml(), encoding="utf-8")
        write_json(folder / CONFIG_FILE, ds_config)
        write_json(folder / PREPROCESSING_FILE, preprocessing)
        write_json(folder / "environment.json", environment(world))
    except OSError as error:
        raise UserError(f"run.output_dir = {folder}: cannot be written: {error}") from None


def _remove_run(settings: Settings) -> None:
    # Trackers are open already, and have begun anew where this run has them.
    names = [
        *LEFT,
        *([] if settings.tensorboard.enabled else [TENSORBOARD_FOLDER]),
        *([] if settings.wandb.mode != "disabled" else [WANDB_ID_FILE]),
    ]
    for path in (settings.run.output_dir / name for name in names):
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)


def save_skeleton(folder: Path, model: Any, tokenizer: Any, image_processor: Any, dtype: str) -> None:
    """All of the model in training but its weights: with them beside it, a whole checkpoint.

    Args:
        image_processor: None where the network does not see page images.
    """
    model.config.architectures = [type(model).__name__]
    model.config.dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[dtype]
    model.config.save_pretrained(folder / SKELETON_FOLDER)
    tokenizer.save_pretrained(folder / SKELETON_FOLDER)
    if image_processor is not None:
        image_processor.save_pretrained(folder / SKELETON_FOLDER)


def environment(world: World) -> dict[str, Any]:
    """Versions, commit, ranks and device; no variable of the environment, so no secret."""
    packages = ("torch", "deepspeed", "transformers", "tokenizers", "pydantic", "seqeval", "wandb")
    return {
        "layoutner": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "world_size": world.size,
        "device": world.device_name,
        "cpus": len(os.sched_getaffinity(0)),
        "platform": platform.platform(),
    }


def write_json(path: Path, value: Any) -> None:
    """Write beside, then rename: a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.rename(path)


def _git_commit() -> str | None:
    """Commit of the layoutner that runs, where it runs from a checkout."""
    top = Path(__file__).parents[2]
    if not (top / ".git").exists():
        return None
    command = ["git", "-C", str(top), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
