"""The session of a local Ray: a private token, and only its own processes are found and stopped."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from brew_cluster.ray.session import RaySession, kept_sessions

SLEEP = [sys.executable, "-c", "import sys, time; print(flush=True); time.sleep(600)"]


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RaySession]:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    session = RaySession.create()
    yield session
    session.stop()
    session.remove()


def start(**options: object) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(SLEEP, stdout=subprocess.PIPE, **options)  # type: ignore[call-overload]
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_the_folder_and_the_token_are_for_this_user_only(session: RaySession) -> None:
    other = RaySession.create()
    try:
        assert stat.S_IMODE(session.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(session.token_path.stat().st_mode) == 0o600
        assert len(session.token_path.read_text()) == 64
        assert session.token_path.read_text() != other.token_path.read_text()
    finally:
        other.remove()
    assert not other.folder.exists()


def test_a_long_temporary_folder_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / "a-folder-whose-path-is-too-long-for-sockets"
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    session = RaySession.create()
    session.remove()
    assert not session.folder.is_relative_to(long)


@pytest.mark.parametrize("kept", [False, True])
def test_the_environment_has_the_token_during_the_block_only(
    session: RaySession, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of another cluster")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    before = dict(os.environ)
    with session.environment(kept=kept):
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(session.token_path)
        assert "RAY_AUTH_TOKEN" not in os.environ  # Ray would prefer it
        assert (str(session.folder) in os.environ.values()) == kept
        token = session.token_path.read_text()
        assert token not in os.environ.values()
    assert dict(os.environ) == before


def test_only_the_processes_of_the_session_are_stopped(session: RaySession) -> None:
    before = set(kept_sessions())
    neighbour = start()
    with session.environment(kept=False):
        passing = start()  # of a Ray that ends with its command
    with session.environment(kept=True):
        marked = start()
    with (session.folder / "worker.out").open("w") as log:
        writer = start(stderr=log)
    with (session.folder / "worker.out").open() as log:
        reader = start(stdin=log)  # as `tail` does
    try:
        assert set(kept_sessions()) - before == {session}
        assert {process.pid for process in session.processes()} == {marked.pid, writer.pid}
        session.stop()
        assert not any(psutil.pid_exists(process.pid) for process in (marked, writer))
        assert psutil.pid_exists(neighbour.pid)
        assert neighbour.poll() is None
        assert passing.poll() is None
        assert reader.poll() is None
        assert not session.token_path.exists()
        assert set(kept_sessions()) == before
        session.stop()  # nothing is left to do
    finally:
        for process in (neighbour, passing, marked, writer, reader):
            process.kill()
            process.communicate()
