"""Imports between areas have one direction, and the folder `platform` does not hide the standard library's module."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from .areas import AREAS, ROOT


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return names


def imported_packages(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(file) if name.startswith("brew_")}


def imported_folders(file: Path) -> set[str]:
    """Folders of brew_serve; a file that lies in none is of the folder ""."""
    parts = [name.split(".") for name in imported(file) if name.startswith("brew_serve.")]
    return {names[1] if len(names) > 2 else "" for names in parts}


@pytest.mark.parametrize("area", AREAS)
def test_imports_run_one_way(area: str) -> None:
    packages = list(AREAS.values())
    allowed = set(packages[: packages.index(AREAS[area]) + 1])
    files = list((ROOT / area / AREAS[area]).rglob("*.py"))
    assert files
    for file in files:
        assert imported_packages(file) <= allowed, f"{file.relative_to(ROOT)} imports an area above its own"


def test_serving_folders_import_one_way() -> None:
    """Schemas and engines are leaves, and ranking depends on neither HTTP nor the deployment."""
    serve = ROOT / "serve/brew_serve"
    allowed = {
        "schemas": {"schemas"},
        "engines": {"engines"},
        "stores": {"stores", ""},
        "context": {"context", "stores", ""},
        "ranking": {"ranking", "engines", "context", "schemas", ""},
        "http": {"http", "ranking", "engines", "context", "schemas", "nearline", "stores", ""},
    }
    for folder, folders in allowed.items():
        files = list((serve / folder).rglob("*.py"))
        assert files
        for file in files:
            assert imported_folders(file) <= folders, f"{file.relative_to(ROOT)} imports a folder above its own"
    leaves = {"errors.py": set(), "metrics.py": {"engines"}, "version.py": {"engines"}}
    for name, folders in leaves.items():
        assert imported_folders(serve / name) <= folders, name


def test_no_modules_import_each_other_in_a_cycle() -> None:
    """Over all areas, by the imports that run when a module is imported."""
    files = {}
    for area in (ROOT / name / package for name, package in AREAS.items()):
        for file in area.rglob("*.py"):
            parts = file.relative_to(area.parent).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    graph = {
        name: {target for target in imported_at_import(file, set(files)) if target != name}
        for name, file in files.items()
    }
    assert len(graph) > 100
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


def imported_at_import(file: Path, modules: set[str]) -> set[str]:
    """Return the modules that `file` imports outside functions and `if TYPE_CHECKING`."""
    found: set[str] = set()
    nodes: list[ast.AST] = list(ast.parse(file.read_text()).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (below & modules) or {node.module}
        nodes += ast.iter_child_nodes(node)
    return found & modules


def test_serving_never_imports_training_code() -> None:
    for file in (ROOT / "serve/brew_serve").rglob("*.py"):
        assert "brew_train" not in imported_packages(file), file


def test_the_standard_library_module_platform_is_importable_in_the_repository_root() -> None:
    assert not (ROOT / "platform/__init__.py").exists()
    code = "import platform, ray; assert platform.system() and not hasattr(platform, '__path__')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True, timeout=120)


def test_training_and_scoring_import_without_ray() -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "import brew_train.loop, brew_train.objectives.fused_losses, brew_train.model.model\n"
        "import brew_serve.ranking.scoring, brew_data.prompts.compiler"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True, timeout=120)
