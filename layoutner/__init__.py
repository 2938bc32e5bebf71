"""layoutner: fine-tune LayoutLM-family models to label the words of scanned forms, with DeepSpeed.

    import layoutner

    settings = layoutner.load_settings("run.toml")
    result = layoutner.train(settings)
    model = layoutner.load_model(result.model_dir)
    print(model("invoice.png").fields["TOTAL"].value)

The public interface is `__all__`. Importing the package does not import torch or transformers: each name is imported
when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layoutner.api import evaluate, load_model, load_settings, read_documents, train
    from layoutner.errors import (
        CheckpointError,
        DataError,
        LayoutnerError,
        ModelError,
        Preempted,
        RanksDisagree,
        SettingsError,
        TrainingDiverged,
    )
    from layoutner.fields.field import Field
    from layoutner.inference.labelled_page import Entity, LabelledPage, LabelledWord
    from layoutner.inference.model import Model
    from layoutner.inference.result import Result
    from layoutner.objectives.metrics import Scores
    from layoutner.pages.document import Document
    from layoutner.runs.single import RunResult
    from layoutner.settings.tree import Settings

__version__ = "0.1.0"

_HOMES = {
    "layoutner.api": ("evaluate", "load_settings", "read_documents", "train"),
    "layoutner.errors": (
        "LayoutnerError",
        "SettingsError",
        "DataError",
        "ModelError",
        "CheckpointError",
        "RanksDisagree",
        "TrainingDiverged",
        "Preempted",
    ),
    "layoutner.fields.field": ("Field",),
    "layoutner.inference.labelled_page": ("Entity", "LabelledPage", "LabelledWord"),
    "layoutner.inference.model": ("Model", "load_model"),  # not by way of the api, which loads DeepSpeed
    "layoutner.inference.result": ("Result",),
    "layoutner.objectives.metrics": ("Scores",),
    "layoutner.pages.document": ("Document",),
    "layoutner.runs.single": ("RunResult",),
    "layoutner.settings.tree": ("Settings",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022  # in the order of their use
    "Settings", "load_settings", "train", "RunResult", "evaluate", "Scores", "load_model", "Model", "Result", "Field",
    "LabelledPage", "LabelledWord", "Entity", "Document", "read_documents", "LayoutnerError", "SettingsError",
    "DataError", "ModelError", "CheckpointError", "RanksDisagree", "TrainingDiverged", "Preempted", "__version__",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'layoutner' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
