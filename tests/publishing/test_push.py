"""Uploads to the hub, which no test reaches."""

from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi

from layoutner.errors import ModelError
from layoutner.models.preprocessing import Preprocessing
from layoutner.publishing import push as module
from tests.builders.checkpoints import checkpoint
from tests.builders.processes import call, launch

TOKEN = "hf_not-to-be-seen"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    Preprocessing(
        family="bert", scheme="BIO", labels=("O",), max_length=64, stride=8, box_level="word", images="ignore"
    ).write(folder / "layoutner.json")
    checkpoint(folder, 1)
    return folder


class Hub:
    """Takes the place of `HfApi`, and notes what it is asked for."""

    private = True

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> str:
        signature(HfApi.create_repo).bind(self, name, private=private, exist_ok=exist_ok)
        self.calls.append(("create", name, private, exist_ok))
        return f"https://hub/{name}"

    def model_info(self, name: str) -> SimpleNamespace:
        signature(HfApi.model_info).bind(self, name)
        return SimpleNamespace(private=self.private)

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        signature(HfApi.upload_folder).bind(
            self, repo_id=repo_id, folder_path=folder_path, commit_message=commit_message
        )
        self.calls.append(("upload", repo_id, sorted(path.name for path in folder_path.iterdir())))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(module, "HfApi", lambda: hub)
    monkeypatch.setattr(module, "get_token", lambda: TOKEN)
    return hub


FILES = ["README.md", "config.json", "layoutner.json", "model.safetensors"]


@pytest.mark.parametrize("public", [False, True])
def test_an_export_is_uploaded(
    public: bool, run: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.private = not public
    more = ["--public"] if public else []
    code, out, err = call(capsys, "export", run, tmp_path / "out", "--push", "org/name", *more)
    assert code == 0, err
    assert hub.calls == [("create", "org/name", not public, True), ("upload", "org/name", FILES)]
    assert out.splitlines()[-1] == f"{tmp_path / 'out'} uploaded to https://hub/org/name"


def test_what_is_private_is_not_uploaded_for_all_to_see(hub: Hub, tmp_path: Path) -> None:
    hub.private = False
    with pytest.raises(ModelError, match="https://hub/org/name is public; add --public, or give"):
        module.push(tmp_path, "org/name", public=False)
    assert [call[0] for call in hub.calls] == ["create"]


def test_what_is_wrong_with_the_options_is_said_before_the_export(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, said in ((["--public"], "--public without --push"), (["--push", "a/b/c"], "--push a/b/c: not a name of")):
        code, _, err = call(capsys, "export", run, tmp_path / "out", *more)
        assert (code, len(err.splitlines())) == (2, 1), err
        assert said in err
        assert not (tmp_path / "out").exists()


def test_without_a_token_the_export_stays(
    run: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "get_token", lambda: None)
    code, _, err = call(capsys, "export", run, tmp_path / "out", "--push", "org/name")
    assert code == 2
    assert f"{tmp_path / 'out'} was not uploaded to org/name, and stays as it is: there is no token; run `hf a" in err
    assert f"then `hf upload org/name {tmp_path / 'out'} --private`" in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert hub.calls == []


def test_without_a_network_the_export_stays(run: Path, tmp_path: Path) -> None:
    home = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = launch(["layoutner", "export", run, tmp_path / "out", "--push", "org/name"], **home)
    assert done.returncode == 2, done.stderr
    assert done.stdout == f"{run / 'checkpoints' / 'step-000001'} exported to {tmp_path / 'out'}\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"layoutner: error: {tmp_path / 'out'} was not uploaded to org/name, and stays as it is: ")
    assert "Connection refused" in line
    assert TOKEN not in done.stdout + done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert not any(TOKEN.encode() in file.read_bytes() for file in (tmp_path / "out").iterdir())
