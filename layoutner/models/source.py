"""Check the name of the pretrained model."""

from pathlib import Path

from layoutner.errors import ModelError, SettingsError
from layoutner.settings.tree import ModelSettings


def checkpoint_name(settings: ModelSettings) -> str:
    """The hub name or folder of the pretrained model. Loads nothing.

    Raises:
        SettingsError: no name is given.
        ModelError: it is a local path without a config.json.
    """
    name = settings.name_or_path
    if name is None:
        raise SettingsError(
            "model.name_or_path is missing: a hub name such as microsoft/layoutlm-base-uncased, or a folder"
        )
    if (Path(name).exists() or name.startswith((".", "/", "~"))) and not (Path(name) / "config.json").is_file():
        raise ModelError(f"model.name_or_path = {name}: it has no config.json, so it is not a model folder")
    return name
