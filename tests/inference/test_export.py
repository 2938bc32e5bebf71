"""Checkpoints as models: an export, and links for as long as they are used."""

from pathlib import Path

import pytest

from layoutner.errors import CheckpointError, ModelError, SettingsError
from layoutner.inference.export import as_model, export
from layoutner.models.preprocessing import Preprocessing
from layoutner.training.checkpoint_files import checkpoint_path
from tests.builders.checkpoints import checkpoint

LINKS = ["config.json", "layoutner.json", "model.safetensors"]
FILES = ["README.md", *LINKS]
PREPROCESSING = Preprocessing(
    family="bert", scheme="BIO", labels=("O",), max_length=64, stride=8, box_level="word", images="ignore"
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with as little in it as can be."""
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    PREPROCESSING.write(folder / "layoutner.json")
    checkpoint(folder, 1)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_of_a_relative_path_is_a_model(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    with as_model(checkpoint_path(Path("run"), 1)) as model:
        assert names(model) == LINKS
        assert all(file.is_file() for file in model.iterdir())  # no link leads nowhere
    assert names(run) == ["checkpoints", "layoutner.json", "model"]


def test_an_export_after_one_that_was_killed(run: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half").touch()
    (tmp_path / "out").mkdir()
    assert export(run, tmp_path / "out") == checkpoint_path(run, 1)
    assert names(tmp_path / "out") == FILES
    assert names(tmp_path) == ["out", "run"]


def test_an_export_that_fails_leaves_nothing(run: Path, tmp_path: Path) -> None:
    (run / "layoutner.json").unlink()
    with pytest.raises(ModelError, match="could not be exported"):
        export(run, tmp_path / "out")
    (run / "layoutner.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be exported: layoutner.json: family: Field required"):
        export(run, tmp_path / "out")
    assert names(tmp_path) == ["run"]


def test_what_cannot_be_exported_over_or_from(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full" / "mine").mkdir(parents=True)
    for there in ("file", "full"):
        with pytest.raises(SettingsError, match=f"{there}: already exists; give a new folder"):
            export(run, tmp_path / there)
    assert names(tmp_path / "full") == ["mine"]
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        export(checkpoint_path(run, 1).rename(tmp_path / "elsewhere"), tmp_path / "out")
