"""The run folder as a record: what was asked, what DeepSpeed was given, where it ran, what came out."""

import json
import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from layoutner import __version__
from layoutner.config.errors import UserError
from layoutner.config.settings import Settings
from layoutner.training.checkpoint import FOLDER as CHECKPOINTS_FOLDER
from layoutner.training.tracking import METRICS_FILE, TENSORBOARD_FOLDER
from layoutner.training.world import World

SKELETON_FOLDER = "model"
SCORES_FILE = "scores.json"
PREPROCESSING_FILE = "layoutner.json"  # how documents become the network's input; travels with every export


EXPORT_FOLDER = "export"
PREDICTION_FILES = {"jsonl": "test_predictions.jsonl", "unilm": "test_predictions.txt"}  # by run.predictions
RESULTS_FILE = "test_results.txt"

# What a run leaves beside its record, which is written anew: what run.overwrite removes. Runs of Weights & Biases that
# are not sent yet stay, and so does whatever somebody else put there.
LEFT = (
    CHECKPOINTS_FOLDER,
    SKELETON_FOLDER,
    EXPORT_FOLDER,
    METRICS_FILE,
    TENSORBOARD_FOLDER,
    SCORES_FILE,
    RESULTS_FILE,
    *PREDICTION_FILES.values(),
)


def open_folder(settings: Settings, ds_config: dict[str, Any], preprocessing: dict[str, Any], world: World) -> None:
    """Make the run folder and write its record, with run.overwrite in place of an earlier run. Rank 0 alone calls this.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = settings.run.output_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if settings.run.overwrite:
            _remove_run(folder)
        (folder / "settings.toml").write_text(settings.to_toml(), encoding="utf-8")
        write_json(folder / "ds_config.json", ds_config)
        write_json(folder / PREPROCESSING_FILE, preprocessing)
        write_json(folder / "environment.json", environment(world))
    except OSError as error:
        raise UserError(f"run.output_dir = {folder}: cannot be written: {error}") from None


def _remove_run(folder: Path) -> None:
    for path in (folder / name for name in LEFT):
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
