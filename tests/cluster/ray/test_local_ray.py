"""When brew360 starts a Ray of its own, and what it stops."""

import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from brew_cluster.ray import local_ray
from brew_cluster.ray.local_ray import refuse_running_ray, stop_ray
from brew_cluster.ray.session import RaySession
from brew_platform.errors import UserError


def test_a_cluster_is_refused_by_commands_that_start_a_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError, match=r"RAY_ADDRESS names the Ray at 10\.0\.0\.1:6379.*Unset RAY_ADDRESS"):
        refuse_running_ray()


def test_a_ray_that_an_earlier_command_left_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(local_ray, "kept_sessions", lambda: [RaySession(tmp_path)])
    with pytest.raises(UserError, match=r"Ray is already running in .*`brew360 serve down`"):
        refuse_running_ray()


def test_without_an_earlier_command_nothing_is_refused_or_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(local_ray, "kept_sessions", list)
    refuse_running_ray()
    assert stop_ray() == []


def test_ray_data_prints_errors_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import ray.data  # adds the handler that prints
    from ray._private.log import PlainRayHandler

    logger = logging.getLogger("ray.data")
    assert not logger.propagate
    monkeypatch.setattr(logger, "handlers", [PlainRayHandler()])
    context = SimpleNamespace(execution_options=SimpleNamespace())
    monkeypatch.setattr(ray.data.DataContext, "get_current", lambda: context)
    local_ray._settle_libraries()
    logger.info("Starting execution of Dataset")
    logger.warning("Progress bars disabled")
    logger.error("A task failed")
    printed = "".join(capsys.readouterr())
    assert "A task failed" in printed
    assert "Starting" not in printed
    assert "disabled" not in printed
    assert context.execution_options.preserve_order


def test_serves_client_does_not_outlive_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    clients: list[object] = []
    context = SimpleNamespace(_set_global_client=clients.append)
    monkeypatch.setitem(sys.modules, "ray.serve.context", context)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    local_ray._disconnect()
    assert clients == [None]
