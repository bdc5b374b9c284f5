"""The frame: imports between areas run one way, and the standard library's `platform` survives."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ["platform", "data", "train", "serve", "cluster"]  # each may import those before it


def imported_areas(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return {name.split(".")[0].removeprefix("brew_") for name in names if name.startswith("brew_")}


@pytest.mark.parametrize("area", ORDER)
def test_imports_run_one_way(area: str) -> None:
    allowed = set(ORDER[: ORDER.index(area) + 1])
    files = list((ROOT / area / f"brew_{area}").rglob("*.py"))
    assert files
    for file in files:
        assert imported_areas(file) <= allowed, f"{file.relative_to(ROOT)} imports an area above its own"


def test_serving_never_imports_training_code() -> None:
    for file in (ROOT / "serve/brew_serve").rglob("*.py"):
        assert "train" not in imported_areas(file), file


def test_the_standard_librarys_platform_survives_in_the_repository_root() -> None:
    assert not (ROOT / "platform/__init__.py").exists()
    code = "import platform, ray; assert platform.system() and not hasattr(platform, '__path__')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True, timeout=120)


def test_training_and_scoring_import_without_ray() -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "import brew_train.loop, brew_train.losses, brew_train.model, brew_serve.scoring, brew_data.compiler"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True, timeout=120)
