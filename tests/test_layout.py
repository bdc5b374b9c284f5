"""The frame: imports between areas run one way, and the standard library's `platform` survives."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ["platform", "data", "train", "serve", "cluster"]  # each may import those before it


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return names


def imported_areas(file: Path) -> set[str]:
    return {name.split(".")[0].removeprefix("brew_") for name in imported(file) if name.startswith("brew_")}


def imported_folders(file: Path) -> set[str]:
    """Folders of brew_serve; a file that lies in none is of the folder ""."""
    parts = [name.split(".") for name in imported(file) if name.startswith("brew_serve.")]
    return {names[1] if len(names) > 2 else "" for names in parts}


@pytest.mark.parametrize("area", ORDER)
def test_imports_run_one_way(area: str) -> None:
    allowed = set(ORDER[: ORDER.index(area) + 1])
    files = list((ROOT / area / f"brew_{area}").rglob("*.py"))
    assert files
    for file in files:
        assert imported_areas(file) <= allowed, f"{file.relative_to(ROOT)} imports an area above its own"


def test_inside_serving_imports_run_one_way_too() -> None:
    """Engines know nothing of who asks; what answers a request in one process knows nothing of fleets and queues."""
    serve = ROOT / "serve/brew_serve"
    for file in (serve / "engines").glob("*.py"):
        assert imported_folders(file) <= {"engines"}, file
    together = {"app.py", "app_config.py", "client.py"}  # what is put together of all of them, or speaks to all
    for file in serve.glob("*.py"):
        assert file.name in together or imported_folders(file) <= {"", "engines"}, file
    for folder, below in {"batch": {"nearline"}, "nearline": set(), "fleet": {"nearline"}}.items():
        for file in (serve / folder).glob("*.py"):
            assert imported_folders(file) <= {"", "engines", folder, *below}, file


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
        "import brew_train.loop, brew_train.objectives.fused_losses, brew_train.model.model, brew_serve.ranking.scoring, brew_data.prompts.compiler"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True, timeout=120)
