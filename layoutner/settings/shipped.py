"""Folders of files for users that stand at the top of the checkout, where people look for them, and in the wheel."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path


def shipped_folder(name: str) -> Traversable:
    """The folder as installed in the package, else at the top of the checkout."""
    installed = resources.files("layoutner") / name
    return installed if installed.is_dir() else Path(__file__).parents[2] / name
