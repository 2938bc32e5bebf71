"""Where a checkpoint to start from comes from, as far as its name tells."""

from pathlib import Path

from layoutner.errors import ModelError, SettingsError
from layoutner.settings.tree import ModelSettings


def checkpoint_name(settings: ModelSettings) -> str:
    """The hub name or the folder of the checkpoint to start from. Loads nothing.

    Raises:
        SettingsError: none is given.
        ModelError: it is a folder that is no checkpoint.
    """
    name = settings.name_or_path
    if name is None:
        raise SettingsError(
            "model.name_or_path is missing: a hub name such as microsoft/layoutlm-base-uncased, or a folder"
        )
    if (Path(name).exists() or name.startswith((".", "/", "~"))) and not (Path(name) / "config.json").is_file():
        raise ModelError(f"model.name_or_path = {name}: there is no config.json in it, so it is no checkpoint folder")
    return name
