"""Folders with files for users. They are at the top level of the repository, and inside the installed package."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path


def shipped_folder(name: str) -> Traversable:
    """The folder in the installed package; if there is none, at the top level of the repository."""
    installed = resources.files("layoutner") / name
    return installed if installed.is_dir() else Path(__file__).parents[2] / name
