"""The order of the rooms: imports run one way, each dependency has one owner, nothing goes round in a circle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "layoutner"
ROOMS = ("config", "data", "model", "training", "inference", "demo", "cli")  # each imports only those before it
OWNERS = {
    "deepspeed": "training/engine.py",
    "seqeval": "training/metrics.py",
    "wandb": "training/tracking.py",
    "tensorboard": "training/tracking.py",
    "tomli_w": "config/settings.py",
    "pydantic_settings": "config/data_settings.py config/settings.py",  # the Settings tree, in two files
    "datasets": "data/readers/hub.py",
    "pytesseract": "data/readers/ocr.py",
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Names of all modules a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    if room(path) not in ROOMS:  # __init__ and __main__
        return
    allowed = ROOMS[: ROOMS.index(room(path)) + 1]
    own = {name.split(".")[1] for name in imports(path) if name.startswith("layoutner.")}
    assert own - {"__version__"} <= set(allowed)


@pytest.mark.parametrize(("package", "owner"), OWNERS.items())
def test_a_dependency_has_one_owner(package: str, owner: str) -> None:
    users = [str(p.relative_to(PACKAGE)) for p in MODULES if package in {name.split(".")[0] for name in imports(p)}]
    assert users == owner.split()


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


def test_config_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, layoutner.config.render, layoutner.config.settings, layoutner.cli\n"
        "print([m for m in ('torch', 'deepspeed', 'transformers', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_one_noun_of_readable_length(path: Path) -> None:
    assert path.stem not in ("utils", "common", "helpers", "misc")
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 420
