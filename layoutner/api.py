"""The public functions of layoutner, for programs and notebooks.

They restore the caller's process afterwards: no process group or environment variable is left, and random states, the
number of threads and signal handlers are unchanged. They do not configure logging. The progress of a run is logged to
the logger "layoutner" at level INFO.
"""

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch

from layoutner.distributed.ranks import Ranks
from layoutner.documents.roles import Labels
from layoutner.inference.model import Model, Source, load_model, read_path
from layoutner.objectives.metrics import Scores
from layoutner.pages.document import Document
from layoutner.runs.readiness import require_ready
from layoutner.runs.single import RunResult, run_once
from layoutner.settings.tree import Settings, load

__all__ = ["evaluate", "load_model", "load_settings", "read_documents", "train"]


def load_settings(
    config: Path | str | None = None, overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> Settings:
    """Settings as `layoutner train` reads them: a recipe or TOML file, then the environment, then `overrides`.

    Args:
        config: name of a shipped recipe, or path of a TOML file. None: the defaults.
        overrides: section -> key -> value, for example {"schedule": {"epochs": 10}}.

    Raises:
        SettingsError: every problem of all sources at once.
    """
    return load(None if config is None else str(config), overrides or {}, "the overrides")


def train(settings: Settings) -> RunResult:
    """Train, export the chosen checkpoint and score it.

    Under `deepspeed` or `torchrun`, every rank must call it. Otherwise it trains in this process only.

    Raises:
        LayoutnerError: an error that is not a bug; its class tells the kind. Checks that need no model run first and
            are reported together.
        Preempted: a signal asked the run to end, and its checkpoint is saved.
    """
    require_ready(settings)
    with _caller_kept(), Ranks.join(settings.run.rank_timeout, settings.run.device) as ranks:
        return run_once(settings, ranks)


def evaluate(
    model: Model | Path | str, documents: Source, *, batch_size: int = 8, split: str = "test", **data: Any
) -> Scores:
    """Score a model on labelled documents. See `Model.evaluate`.

    Args:
        model: a Model, or the folder of one.
    """
    opened = model if isinstance(model, Model) else load_model(model)
    return opened.evaluate(documents, batch_size=batch_size, split=split, **data)


def read_documents(path: Path | str, *, split: str = "test", labels: Labels = "keep", **data: Any) -> list[Document]:
    """Read the documents of a file or folder.

    Args:
        path: a file or folder.
        split: "train", "eval" or "test": which one, if the path holds several.
        labels: "keep" = read labels if there are any; "ignore" = drop all labels; "require" = a page without labels is
            an error.
        data: settings of [data], such as format="funsd" or bad_pages="skip".

    Raises:
        SettingsError: a setting that [data] does not take.
        DataError: documents that cannot be read.
    """
    return read_path(path, split, labels, data)


@contextmanager
def _caller_kept() -> Iterator[None]:
    """Restore process-wide state that a run changes: environment, random states, number of threads."""
    environment, threads = dict(os.environ), torch.get_num_threads()
    drawn = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        torch.set_num_threads(threads)
        random.setstate(drawn[0])
        numpy.random.set_state(drawn[1])
        torch.set_rng_state(drawn[2])
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
