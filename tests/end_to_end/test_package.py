"""What is shipped: a wheel of the files that the Dockerfile copies, in a virtual environment of its own."""

import configparser
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
import yaml

import layoutner
from layoutner.planning.render import load_preset, preset_names
from layoutner.settings.recipes import recipe_names, recipe_text
from layoutner.settings.tree import DeepSpeedSettings
from tests.builders.processes import HANGS_S, ROOT, call

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCRIPTS = {"train": "train.sh", "sweep": "sweep.sh", "readme": "README.md"}


def copied() -> Iterator[tuple[Path, Path]]:
    """What the Dockerfile copies, and where to, below /src."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            name = f"{target}{source}" if target.endswith("/") else target
            yield Path(source), Path(name).relative_to("/src")


def test_the_dockerfile_copies_what_is_there_and_not_ignored() -> None:
    pairs = list(copied())
    assert len(pairs) == 6
    ignore, *rest = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert ignore == "*"
    assert {line[1:] for line in rest if line.startswith("!")} == {str(source) for source, _ in pairs}
    for source, _ in pairs:
        assert (ROOT / source).exists()
        assert not any(fnmatch(str(source), line) for line in rest)


def test_there_is_one_version() -> None:
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", layoutner.__version__)


def test_commits_are_checked_as_ci_checks_them() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repository,) = config["repos"]
    assert repository["repo"] == "local"  # nothing is downloaded
    (hook,) = repository["hooks"]
    assert (hook["entry"], hook["language"], hook["pass_filenames"]) == ("make check", "system", False)
    assert "make check" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS)
def test_slurm_script_prints_the_files_of_the_checkout(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = (ROOT / "slurm" / SCRIPTS[script]).read_text(encoding="utf-8")
    assert call(capsys, "slurm-script", script) == (0, expected, "")
    if script == "train":
        assert call(capsys, "slurm-script") == (0, expected, "")


def test_what_is_said_to_install_an_extra_does() -> None:
    extras = PROJECT["optional-dependencies"]
    said: set[str] = set()
    for path in (*ROOT.joinpath("layoutner").rglob("*.py"), *ROOT.glob("*.md"), *ROOT.joinpath("docs").rglob("*.md")):
        said |= set(re.findall(r"layoutner\[(\w+)\]", path.read_text(encoding="utf-8")))
    assert {"hub", "ocr", "tensorboard"} <= said <= extras.keys()
    for extra, package in (("hub", "datasets"), ("ocr", "pytesseract"), ("tensorboard", "tensorboard")):
        assert [re.match(r"\w+", requirement)[0] for requirement in extras[extra]] == [package]  # type: ignore[index]


def run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=False,
        cwd=cwd,
        env=clean,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of the files that the Dockerfile copies, and of no others."""
    folder = tmp_path_factory.mktemp("wheel")
    for source, target in copied():
        if (ROOT / source).is_dir():
            copytree(ROOT / source, folder / "src" / target, ignore=ignore_patterns("__pycache__"))
        else:
            (folder / "src" / target).parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / source, folder / "src" / target)
    own = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    built = run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *own, "-w", folder, folder / "src")
    if "No matching distribution found for hatchling" in built.stderr:
        pytest.skip("no wheel can be built here: hatchling is not installed and no package index answers")
    assert built.returncode == 0, built.stderr
    (made,) = folder.glob("layoutner-*.whl")
    return made


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a virtual environment with the wheel in it, which finds all other packages in that of the tests."""
    folder = tmp_path_factory.mktemp("venv")
    assert run(sys.executable, "-m", "venv", "--without-pip", folder).returncode == 0
    python = folder / "bin" / "python"
    installed = run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
    assert installed.returncode == 0, installed.stderr
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file is taken as it is: an editable checkout that is installed there is not.
    outside = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "tests.pth").write_text("\n".join(outside))
    return folder / "bin"


@pytest.mark.slow
def test_the_wheel_says_what_it_is_and_holds_what_is_shipped(wheel: Path) -> None:
    assert wheel.name == f"layoutner-{layoutner.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        text = file.read(metadata).decode("utf-8")
        (scripts,) = (name for name in names if name.endswith("/entry_points.txt"))
        commands = configparser.ConfigParser()
        commands.read_string(file.read(scripts).decode("utf-8"))
    assert dict(commands["console_scripts"]) == {"layoutner": "layoutner.cli:main"}
    for line in (
        f"Version: {layoutner.__version__}",
        "License-Expression: Apache-2.0",
        "License-File: LICENSE",
        "Requires-Python: >=3.11",
        "Classifier: Operating System :: POSIX :: Linux",
        *(f"Project-URL: {name}, {url}" for name, url in PROJECT["urls"].items()),
    ):
        assert line in text.splitlines()
    assert "layoutner/py.typed" in names
    assert {f"layoutner/recipes/{name}.toml" for name in recipe_names()} <= names
    assert {f"layoutner/ds_configs/{name}.json" for name in preset_names()} <= names
    assert {f"layoutner/slurm/{name}" for name in SCRIPTS.values()} <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/", "benchmarks/"))]


@pytest.mark.slow
def test_an_installed_wheel_does_without_the_checkout(environment: Path, tmp_path: Path) -> None:
    def layoutner_(*arguments: str) -> str:
        done = run(environment / "layoutner", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(environment / "python", "-c", "import layoutner; print(layoutner.__file__)", cwd=tmp_path).stdout
    assert Path(where.strip()).is_relative_to(environment.parent)
    assert layoutner_("--version") == f"layoutner {layoutner.__version__}\n"
    assert [line.partition(":")[0] for line in layoutner_("config", "list").splitlines()[::2]] == recipe_names()
    for name in recipe_names():
        assert layoutner_("config", "show", name) == recipe_text(name)
    for name, file in SCRIPTS.items():
        assert layoutner_("slurm-script", name) == (ROOT / "slurm" / file).read_text(encoding="utf-8")
    base = ["config", "render", "--config", "demo", "--world-size", "2", "--windows", "288", "--deepspeed.preset"]
    for name in preset_names():
        config = json.loads(layoutner_(*base, name))
        preset = load_preset(DeepSpeedSettings(preset=name))
        assert config["zero_optimization"] == preset["zero_optimization"]
