"""A checkpoint cannot run code of its own, whoever says yes, and no pickle that is more than weights is read."""

import io
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest

from layoutner.errors import ModelError
from layoutner.models.loading import build, open_pretrained
from layoutner.settings.tree import ModelSettings

CODE = """
from pathlib import Path
Path({ran!r}).touch()
from transformers import BertConfig, BertTokenizerFast, LayoutLMv3ImageProcessor
class Own(BertConfig): model_type = "own"
OwnTokenizer, OwnImages = BertTokenizerFast, LayoutLMv3ImageProcessor
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the code of the checkpoint makes if it runs. Whoever asks on the terminal is told yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "ran"


def checkpoint(source: Path, folder: Path, ran: Path, file: str, **changes: object) -> ModelSettings:
    """A copy of a checkpoint with code.py, and with changes in one of its JSON files."""
    shutil.copytree(source, folder)
    (folder / "code.py").write_text(CODE.format(ran=str(ran)))
    values = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**values, **changes}))
    return ModelSettings(name_or_path=str(folder))


@pytest.mark.parametrize(
    ("family", "file", "changes"),
    [
        ("bert", "config.json", {"model_type": "own", "auto_map": {"AutoConfig": "code.Own"}}),
        (
            "bert",
            "tokenizer_config.json",
            {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "code.OwnTokenizer"]}},
        ),
        (
            "layoutlmv3",
            "preprocessor_config.json",
            {"image_processor_type": "OwnImages", "auto_map": {"AutoImageProcessor": "code.OwnImages"}},
        ),
    ],
)
def test_code_of_a_checkpoint_is_not_run(
    family: str, file: str, changes: dict[str, object], checkpoints: dict[str, Path], tmp_path: Path, ran: Path
) -> None:
    settings = checkpoint(checkpoints[family], tmp_path / "model", ran, file, **changes)
    if file == "tokenizer_config.json":  # the tokenizer.json beside it says all
        open_pretrained(settings)
    else:
        with pytest.raises(ModelError, match="cannot be opened"):
            open_pretrained(settings)
    assert not ran.exists()


class Call:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_calls_functions_is_not_read(checkpoints: dict[str, Path], tmp_path: Path, ran: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoints["bert"], folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weights": Call(ran)}))
    with pytest.raises(
        ModelError, match="its weights cannot be loaded: its pytorch_model.bin .* holds more than weights"
    ):
        build(open_pretrained(ModelSettings(name_or_path=str(folder))), ["O", "B-X", "I-X"], None)
    assert not ran.exists()
