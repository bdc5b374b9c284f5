"""A release whose commands are those of `fake_brew360.py`."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from brew_cluster.releases.config import read_release
from brew_cluster.releases.plan import plan_release
from brew_cluster.releases.release import Release
from brew_cluster.releases.runner import LocalRunner

FAKE = Path(__file__).with_name("fake_brew360.py")


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls.txt"))


@pytest.fixture
def runner() -> LocalRunner:
    return LocalRunner([sys.executable, str(FAKE)])


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[], list[str]]:
    """Return a function that returns the steps that ran since its last call."""

    def read() -> list[str]:
        path = tmp_path / "calls.txt"
        found = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    return read


@pytest.fixture
def make_release(tmp_path: Path) -> Callable[..., Release]:
    def make(*overrides: str, recipe: str = "tiny") -> Release:
        found = read_release(recipe, overrides)
        steps = plan_release(found, tmp_path / "steps")
        return Release(recipe=found, path=recipe, folder=tmp_path / found.name, steps=steps)

    return make
