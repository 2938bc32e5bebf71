"""A small model, and a server of it that a module's tests share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.families import make_export
from tests.builders.pages import LABELS
from tests.builders.servers import ServerProcess, serving


@pytest.fixture(scope="session")
def model_folder(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model: it labels at random, and the same always."""
    return make_export(checkpoints["layoutlm"], tmp_path_factory.mktemp("served"), LABELS.tags)


@pytest.fixture(scope="module")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    arguments = ("--max-upload-mib", 1, "--max-pages", 3, "--normalise", "TOTAL=amount")
    with serving(model_folder, tmp_path_factory.mktemp("temporary"), *arguments) as running:
        yield running


@pytest.fixture(scope="session")
def form_image(forms: Path) -> Path:
    """A page image, for which words have to be read."""
    if shutil.which("tesseract") is None:
        pytest.skip("no tesseract")
    return next(iter(sorted(forms.glob("testing_data/images/*.png"))))
