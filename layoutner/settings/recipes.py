"""Recipes that ship inside the package, and TOML files of the user's own."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from layoutner.errors import UserError, did_you_mean


def recipe_names() -> list[str]:
    """Names of the recipes that ship inside the package."""
    folder = resources.files("layoutner") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_config(config: str | None) -> dict[str, Any]:
    """Settings of a recipe by name, or of a TOML file by path, as it says them; none of None.

    Raises:
        UserError: neither, or a file that cannot be read.
    """
    if config is None:
        return {}
    recipes = recipe_names()
    if config in recipes:
        text = (resources.files("layoutner") / "recipes" / f"{config}.toml").read_text(encoding="utf-8")
    else:
        path = Path(config)
        if not path.is_file():
            raise UserError(
                f"--config {config}: no such file, and no recipe of that name; {did_you_mean(config, recipes)}"
            )
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--config {config}: cannot be read: {error}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"--config {config}: not valid TOML: {error}") from None
