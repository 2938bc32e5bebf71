"""The order of the rooms: imports run one way, each dependency has one owner, nothing goes round in a circle."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.imports import imports

PACKAGE = Path(__file__).parents[1] / "layoutner"
# Each imports only those before it.
# fmt: off
ROOMS = (
    "errors", "progress", "deepspeed_config", "settings", "planning", "migration", "files", "pages", "scans",
    "ocr_results", "readers", "documents", "corpus", "models", "distributed", "engine", "objectives", "tracking",
    "training", "fields", "publishing", "backends", "inference", "annotations", "runs", "reports", "sweeps", "api",
    "serving", "demo", "console", "cli",
)
# fmt: on
OWNERS = {
    "deepspeed": "engine/engine.py engine/partitions.py",
    "wandb": "tracking/dashboard.py tracking/wandb_tables.py tracking/wandb_tracker.py",
    "wandb_workspaces": "tracking/dashboard.py",
    "tensorboard": "tracking/trackers.py",
    "tomli_w": "settings/tree.py",
    "pydantic_settings": "settings/data.py settings/optimizer.py settings/tracking.py settings/tree.py",
    "datasets": "readers/hub.py",
    "pytesseract": "scans/tesseract.py",
    "rapidocr": "scans/rapidocr.py",
    "pypdfium2": "files/pdf.py",
    "filelock": "files/lock.py",
    "rich": "console/terminal.py",
    "matplotlib": "reports/charts.py",
    "jinja2": "reports/report.py",
    "fastapi": "serving/app.py",
    "starlette": "serving/app.py serving/label_studio.py serving/observed.py serving/uploads.py",
    "uvicorn": "serving/server.py",
    "onnxruntime": "backends/onnx_network.py",
}
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = Path(__file__).parent


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    if path.parent == PACKAGE and path.stem in ("__init__", "__main__"):
        return
    assert room(path) in ROOMS, f"{room(path)} has no place in the order of the rooms"
    allowed = ROOMS[: ROOMS.index(room(path)) + 1]
    own = {name.split(".")[1] for name in imports(path) if name.startswith("layoutner.")}
    assert own - {"__version__"} <= set(allowed)


@pytest.mark.parametrize(("package", "owner"), OWNERS.items())
def test_a_dependency_has_one_owner(package: str, owner: str) -> None:
    users = [str(p.relative_to(PACKAGE)) for p in MODULES if package in {name.split(".")[0] for name in imports(p)}]
    assert users == owner.split()


OWNED_CALLS = {"rename", "renames", "fsync", "fdatasync", "flock", "lockf", "mkstemp", "NamedTemporaryFile", "move"}


def test_files_get_their_names_in_one_place() -> None:
    """Locks are the library's; whatever else is written, renamed and synced is so by the functions of one module."""
    users = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and (
                node.attr in OWNED_CALLS
                or (node.attr == "replace" and isinstance(node.value, ast.Name) and node.value.id == "os")
            ):
                users.add(str(path.relative_to(PACKAGE)))
        if "fcntl" in imports(path):
            users.add(str(path.relative_to(PACKAGE)))
    assert users == {"files/atomic.py"}


def test_no_import_circle() -> None:
    names = {".".join(("layoutner", *p.relative_to(PACKAGE).with_suffix("").parts)): p for p in MODULES}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph = {name: (imports(path) & names.keys()) - {name, "layoutner"} for name, path in names.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join((*trail, name))}"
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_page_on_the_rooms_lists_them_in_order() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == ROOMS


def test_the_picture_of_the_rooms_shows_their_imports() -> None:
    docs = PACKAGE.parent / "docs"
    done = subprocess.run([sys.executable, docs / "rooms.py"], capture_output=True, text=True, check=True)
    picture = (docs / "images" / "rooms.svg").read_text(encoding="utf-8")
    assert picture == done.stdout, "`python docs/rooms.py > docs/images/rooms.svg` draws it again"
    assert set(re.findall(r">(\w+)</text>", picture)) == set(ROOMS)


def test_the_linter_stands_alone() -> None:
    own = {name for path in (PACKAGE / "deepspeed_config").rglob("*.py") for name in imports(path)}
    assert {name.split(".")[1] for name in own if name.startswith("layoutner.")} == {"deepspeed_config"}


@pytest.mark.parametrize(
    "name", [name for name in ROOMS if name not in ("errors", "progress", "api", "deepspeed_config")]
)
def test_a_room_can_be_walked_through(name: str) -> None:
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (PACKAGE / name).rglob("*.py"))
    assert 0 < lines <= 1600


@pytest.mark.parametrize(
    ("start", "absent"),
    [
        (
            "from layoutner.inference import labeller, predict, export",
            ("deepspeed", "wandb", "transformers.modeling_utils"),
        ),
        ("from layoutner.backends import onnx_network", ("deepspeed", "wandb", "transformers.modeling_utils")),
        ("from layoutner.objectives import evaluate", ("deepspeed", "wandb")),
        ("from layoutner.runs import readiness, folds", ("torch", "transformers", "deepspeed", "wandb")),
        ("from layoutner.sweeps import figures, processes", ("torch", "transformers", "deepspeed", "wandb")),
        (
            "from layoutner.inference import export; from layoutner.publishing import push",
            ("torch", "transformers", "deepspeed", "wandb"),
        ),
        ("from layoutner.documents import check", ("torch", "transformers", "deepspeed", "wandb")),
        (
            "import layoutner.cli",
            ("torch", "transformers", "deepspeed", "wandb", "rich", "layoutner.migration.migrate"),
        ),
    ],
)
def test_what_is_not_needed_is_not_loaded(start: str, absent: tuple[str, ...]) -> None:
    code = f"import sys\n{start}\nprint([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_config_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, layoutner.planning.render, layoutner.settings.tree, layoutner.cli\n"
        "print([m for m in ('torch', 'deepspeed', 'transformers', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_one_noun_of_readable_length(path: Path) -> None:
    assert path.stem not in ("utils", "common", "helpers", "misc")
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 420


def test_tests_stand_in_the_package_of_their_room() -> None:
    folders = {path.name for path in TESTS.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= {*ROOMS, "docs", "end_to_end", "builders", "workers"}
    assert sorted(path.name for path in TESTS.glob("*.py")) == ["__init__.py", "conftest.py", "test_house.py"]


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_what_tests_share_is_a_builder(path: Path) -> None:
    """No test module imports another, nor does a script that it writes; fixtures are found, not imported."""
    text = path.read_text(encoding="utf-8")
    names = re.findall(r"^\s*(?:from|import) (tests\b[\w.]*)(?: import (\w+))?", text, re.MULTILINE)
    assert all(f"{module}.{name}.".startswith("tests.builders.") for module, name in names), names
    assert path.name.startswith("test_") == bool(re.search(r"^def test_", text, re.MULTILINE))
