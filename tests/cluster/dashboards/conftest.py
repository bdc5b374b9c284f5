"""The product with metrics, and the settings of dashboards in a temporary folder."""

import os
import pwd
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from brew_cluster.dashboards.config import DashboardsConfig
from brew_cluster.dashboards.programs import find_program

from ..gateway.conftest import Gateway, keys, make_gateway
from .product_metrics import Product

__all__ = ["keys", "make_gateway"]  # fixtures


@pytest.fixture
def product(tmp_path: Path, make_gateway: Callable[..., Gateway], keys: dict[str, str]) -> Iterator[Product]:
    product = Product(tmp_path, make_gateway(), key=keys["ops"], job_key=keys["feed"], clock=time.time)
    yield product
    product.close()


@pytest.fixture
def config(tmp_path: Path) -> DashboardsConfig:
    return DashboardsConfig(folder=str(tmp_path / "dashboards"))


def _installed(name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a program of Prometheus; of this user's cache, too, although the tests have a HOME of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache"))
    found = find_program(name)
    if found is None:
        pytest.skip(f"{name} is not installed: brew360 dashboards up --install")
    return found


@pytest.fixture
def promtool(monkeypatch: pytest.MonkeyPatch) -> Path:
    return _installed("promtool", monkeypatch)


@pytest.fixture
def prometheus(monkeypatch: pytest.MonkeyPatch) -> Path:
    return _installed("prometheus", monkeypatch)
