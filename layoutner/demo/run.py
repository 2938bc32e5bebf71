"""The demo, end to end: forms, untrained model, training with the deepspeed launcher, prediction, drawing."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence

import torch

from layoutner.demo.checkpoint import make_checkpoint
from layoutner.demo.forms import make_forms
from layoutner.distributed.ranks import Ranks
from layoutner.documents.roles import read_documents
from layoutner.errors import CheckpointError, LayoutnerError, SettingsError
from layoutner.inference.draw import draw
from layoutner.inference.labeller import Labeller
from layoutner.inference.output import Output
from layoutner.inference.predict import predict
from layoutner.inference.prediction_text import PageText
from layoutner.planning.batch_plan import MicroBatchLimit
from layoutner.settings.tree import Settings
from layoutner.training.folder import EXPORT_FOLDER, LOCK_FILE, SCORES_FILE, lock

MARK = "demo.json"  # marks a folder made by the demo, which the next demo may replace


def run_demo(settings: Settings, overrides: dict[str, dict[str, str]], options: Sequence[str] = ()) -> None:
    """Run the demo in settings.run.output_dir.

    Args:
        settings: the recipe "demo" with the user's overrides.
        overrides: the same overrides as text, to pass to `layoutner train`.
        options: more to pass to it: --quiet or --verbose.

    Raises:
        LayoutnerError: a setting is not allowed in the demo, the folder contains other files, or training failed.
    """
    made = {"model": ("name_or_path",), "data": ("format", "train", "test", "labels")}
    given = [f"{s}.{key}" for s, keys in made.items() for key in keys if key in overrides.get(s, {})]
    if given or settings.model.family not in (None, "layoutlm", "bert"):
        what = ", ".join(given) or f"model.family = {settings.model.family}"
        raise SettingsError(
            f"{what}: the demo makes its own forms and its own layoutlm or bert; use `layoutner train` for yours"
        )
    folder = settings.run.output_dir
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise CheckpointError(f"run.output_dir = {folder}: holds files not made by a demo; give another folder")
        if (folder / LOCK_FILE).exists():
            lock(folder).release()  # refused while another demo trains there
        shutil.rmtree(folder)
    if torch.cuda.device_count() == 0:  # else DeepSpeed warns that it finds no accelerator
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(json.dumps({"seed": settings.run.seed}), encoding="utf-8")
    family = settings.model.family or "layoutlm"
    forms, start = folder / "forms", folder / "start"
    _say(options, f"[1/4] 320 training and 80 test forms in {forms}")
    make_forms(forms, train=320, test=80, seed=settings.run.seed)
    _say(options, f"[2/4] a tokenizer and an untrained {family} in {start}")
    make_checkpoint(start, forms, family, settings.run.seed)

    own = {"model": {"name_or_path": str(start)}, "data": {"train": str(forms), "test": str(forms)}}
    own["run"] = {"output_dir": str(folder)}
    arguments = [
        f"--{section}.{key}={value}"
        for tree in (overrides, own)
        for section, values in tree.items()
        for key, value in values.items()
    ]
    processes = 2 if torch.cuda.device_count() == 0 else min(2, torch.cuda.device_count())
    # The launcher itself reports errors only, unless details are wanted.
    level = "info" if "--verbose" in options else "error"
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--log_level", level, "--num_gpus", str(processes)]
    command = [
        *launcher,
        "--master_port",
        str(_free_port()),
        "--module",
        "layoutner",
        "train",
        "--config",
        "demo",
    ]
    _say(
        options, f"[3/4] deepspeed --num_gpus {processes} --module layoutner train --config demo {' '.join(arguments)}"
    )
    done = subprocess.run([*command, *arguments, *options], check=False)  # it inherits the terminal
    if done.returncode:
        raise LayoutnerError(f"training ended with exit code {done.returncode}; see its messages above")

    ranks = Ranks.join(device=settings.run.device)
    labeller = Labeller(folder / EXPORT_FOLDER, ranks)
    prediction, drawing = folder / "prediction.jsonl", folder / "prediction.png"
    output = Output(prediction)
    output.open()
    document = read_documents(settings.data, forms, "test")[0]
    predict(labeller, [document], MicroBatchLimit(1), output, PageText("jsonl"))
    ranks.close()
    draw(json.loads(prediction.read_text(encoding="utf-8")), document.image, labeller.labels.types, drawing)
    scores = json.loads((folder / SCORES_FILE).read_text(encoding="utf-8"))
    _say(options, f"[4/4] {document.name} predicted in {prediction}, drawn in {drawing}")
    _say(options, f"F1 on {scores['counts']['documents']} forms that were not trained on: {scores['f1']:.4f}")


def _say(options: Sequence[str], text: str) -> None:
    if "--quiet" not in options:
        print(text, flush=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
