"""What the demo refuses before it starts anything."""

import shutil
import socket
from pathlib import Path

import pytest

from brew_cluster.jobs.disk_space import require_space
from brew_cluster.ray.local_ray import refuse_running_ray
from brew_platform.errors import StorageError, UserError, first_cause
from brew_platform.ports import require_free_port


def test_a_port_in_use_is_refused_and_a_free_one_passes() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} cannot be used .*choose another --port"):
            require_free_port(port)
    require_free_port(port)


def test_a_full_disk_is_refused_with_how_much_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_space(tmp_path / "not" / "there" / "yet", needed=1)
    usage = shutil.disk_usage(tmp_path)._replace(free=2**29)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match=r"has 0\.5 GB free, but a run needs 2\.0 GB.*--run-dir"):
        require_space(tmp_path)


def test_enospc_anywhere_in_a_chain_becomes_one_sentence() -> None:
    with pytest.raises(OSError) as caught:
        Path("/dev/full").write_bytes(b"x" * 10_000)
    wrapped = RuntimeError("a worker died")
    wrapped.__cause__ = caught.value
    assert "no space left on the disk" in str(first_cause(wrapped))
    assert "--run-dir" in str(first_cause(wrapped))


def test_a_ray_that_someone_else_started_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError, match=r"Ray is already running at 10\.0\.0\.1:6379.*brew360 serve down"):
        refuse_running_ray()
