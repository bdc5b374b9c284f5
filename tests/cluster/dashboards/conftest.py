"""The product with metrics, and the settings of dashboards in a temporary folder."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from brew_cluster.dashboards.config import DashboardsConfig

from ...prometheus_programs import installed
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


def _require(name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = installed(name, monkeypatch)
    if program is None:
        pytest.skip(f"{name} is not installed: brew360 dashboards up --install")
    return program


@pytest.fixture
def promtool(monkeypatch: pytest.MonkeyPatch) -> Path:
    return _require("promtool", monkeypatch)


@pytest.fixture
def prometheus(monkeypatch: pytest.MonkeyPatch) -> Path:
    return _require("prometheus", monkeypatch)
