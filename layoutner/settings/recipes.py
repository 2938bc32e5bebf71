"""Recipes that ship with the package, and the user's TOML files."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from layoutner.errors import SettingsError, did_you_mean


def recipe_names() -> list[str]:
    """Names of the recipes that ship inside the package."""
    folder = resources.files("layoutner") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def recipe_text(name: str) -> str:
    """The text of a shipped recipe, a TOML file with comments.

    Raises:
        SettingsError: no recipe has that name.
    """
    if name not in recipe_names():
        raise SettingsError(f"{name}: no recipe of that name; {did_you_mean(name, recipe_names())}")
    return (resources.files("layoutner") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")


def describe_recipes() -> str:
    """Two lines for each recipe: its name and what it is (its first comment), then its model and data format."""
    lines = []
    for name in recipe_names():
        text = recipe_text(name)
        tree = tomllib.loads(text)
        model = tree.get("model", {}).get("name_or_path", "not set")
        lines.append(f"{name}: {text.splitlines()[0].removeprefix('# ')}")
        lines.append(f"  model: {model}; data format: {tree['data']['format']}")
    return "\n".join(lines)


def read_config(config: str | None) -> dict[str, Any]:
    """Raw settings of a recipe (by name) or of a TOML file (by path); {} for None.

    Raises:
        SettingsError: neither a recipe nor a file, or the file cannot be read.
    """
    if config is None:
        return {}
    recipes = recipe_names()
    if config in recipes:
        text = recipe_text(config)
    else:
        path = Path(config)
        if not path.is_file():
            raise SettingsError(
                f"--config {config}: no such file, and no recipe of that name; {did_you_mean(config, recipes)}"
            )
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"--config {config}: cannot be read: {error}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"--config {config}: not valid TOML: {error}") from None
