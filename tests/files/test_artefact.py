"""What a later run reads back says which version of its format it has; newer ones are refused by name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from layoutner.errors import CheckpointError, LayoutnerError, ModelError
from layoutner.files.artefact import Artefact
from layoutner.inference.export import chosen_checkpoint
from layoutner.models.preprocessing import Preprocessing
from layoutner.objectives.scores_file import ScoresFile
from layoutner.runs.folds import finished_scores
from layoutner.settings.tree import load
from layoutner.sweeps.results import Failures
from layoutner.training.checkpoint_files import Manifest, Record, TrainState, complete_checkpoints, read_record
from tests.builders.checkpoints import checkpoint
from tests.builders.families import make_export
from tests.builders.processes import call


class Sizes(Artefact):
    sizes: tuple[int, ...]
    name: str = "unnamed"


def test_an_artefact_is_read_as_it_was_written(tmp_path: Path) -> None:
    Sizes(sizes=(1, 2), name="é").write(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"format_version": 1, "sizes": [1, 2], "name": "é"}
    read = Sizes.read(tmp_path / "a.json")
    assert read == Sizes(sizes=(1, 2), name="é")
    with pytest.raises(ValidationError, match="frozen"):
        read.name = "other"  # type: ignore[misc]


def test_a_file_without_a_version_is_of_version_1(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"sizes": [3], "added_later": 1}')
    assert Sizes.read(tmp_path / "a.json") == Sizes(format_version=1, sizes=(3,))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Expecting property name"),
        ("[1]", "holds list, not an object"),
        ('{"sizes": "many"}', "^sizes: Input should be a valid tuple"),
        ("{}", "^sizes: Field required"),
        ('{"sizes": [1, "x"]}', r"^sizes\.1: "),
        ('{"sizes": [1], "format_version": 0}', "^format_version: "),
        ('{"sizes": [1], "format_version": "new"}', "^format_version: "),
    ],
)
def test_a_damaged_file_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        Sizes.read(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def newer(file: Path) -> str:
    """Let a newer layoutner have written the file; what is said of it."""
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 2}))
    return f"{file} has format_version 2, this layoutner reads up to 1: upgrade layoutner"


@pytest.mark.parametrize("kind", [Preprocessing, Record, Manifest, ScoresFile, Failures])
def test_every_artefact_says_whose_error_a_newer_version_is(kind: type[Artefact], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    said = newer(tmp_path / "a.json")
    assert kind.refused_as is (ModelError if kind is Preprocessing else CheckpointError)
    with pytest.raises(kind.refused_as) as caught:
        kind.read(tmp_path / "a.json")
    assert str(caught.value) == said


def test_a_model_of_a_newer_version_is_refused_by_name(
    checkpoints: dict[str, Path], forms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_export(checkpoints["bert"], tmp_path, ["O", "B-X", "I-X"])
    said = newer(model / "layoutner.json")
    code, _, err = call(capsys, "predict", forms, "--model", model)
    assert (code, err.splitlines()[-1]) == (2, f"layoutner: error: {said}")


def list_again(folder: Path) -> None:
    """Let the manifest say the length that state.json has now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["state.json"]["bytes"] = (folder / "state.json").stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("file", "use"),
    [
        ("manifest.json", complete_checkpoints),
        ("manifest.json", chosen_checkpoint),
        ("state.json", chosen_checkpoint),
    ],
)
def test_a_checkpoint_of_a_newer_version_is_refused_by_name(
    file: str, use: Callable[[Path], object], tmp_path: Path
) -> None:
    """It is not taken for a damaged one, before which another would be taken."""
    checkpoint(tmp_path, 1)
    folder = checkpoint(tmp_path, 2)
    said = newer(folder / file)
    list_again(folder)
    with pytest.raises(CheckpointError) as caught:
        use(tmp_path)
    assert str(caught.value) == said


def test_a_checkpoint_without_versions_is_read(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 3, best=2)
    for name in ("state.json", "manifest.json"):
        tree = json.loads((folder / name).read_text())
        assert tree.pop("format_version") == 1
        (folder / name).write_text(json.dumps(tree))
    list_again(folder)
    assert read_record(folder).state == TrainState(3, 2, 0.5, 1.0)


def test_scores_of_a_newer_version_are_refused_by_name(tmp_path: Path) -> None:
    settings = load(None, {"run": {"output_dir": str(tmp_path), "resume": "auto"}})
    (tmp_path / "settings.toml").write_text(settings.to_toml())
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(CheckpointError, match="scores.json: cannot be read: f1: Field required; remove it"):
        finished_scores(settings)
    said = newer(tmp_path / "scores.json")
    with pytest.raises(LayoutnerError) as caught:
        finished_scores(settings)
    assert str(caught.value) == said
