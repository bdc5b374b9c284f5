"""The session of a Ray that this machine runs for brew360: a private folder, a token, and the processes.

Each session has a token of its own, which every client of its control plane needs. Nobody but this user can open the
folder, which also contains Ray's sockets and logs. The processes of a session that outlives its command carry the
folder in an environment variable, so that only they are stopped.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # not in its stub

from brew_platform.errors import BrewError

__all__ = ["RaySession", "kept_sessions"]

_KEPT = "BREW360_KEPT_RAY"  # environment variable of the processes of a session that outlives its command: its folder
_LONGEST_BASE = 24  # characters; the path of a socket in the folder may have 107
_ROUNDS = 10  # of one second


@dataclass(frozen=True)
class RaySession:
    """A session.

    Attributes:
        folder: Ray's temporary folder, and the token's; only this user can open it.
    """

    folder: Path

    @classmethod
    def create(cls) -> "RaySession":
        """Create the folder and a new token, both for this user only."""
        base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
        folder = Path(tempfile.mkdtemp(prefix="brew360-", dir=base if len(base) <= _LONGEST_BASE else "/tmp"))  # noqa: S108
        session = cls(folder)
        session.token_path.touch(mode=0o600)
        session.token_path.write_text(secrets.token_hex(32))
        return session

    @property
    def token_path(self) -> Path:
        """File with the token (mode 600), for RAY_AUTH_TOKEN_PATH."""
        return self.folder / "auth_token"

    @contextmanager
    def environment(self, *, kept: bool) -> Iterator[None]:
        """Let Ray in this process, and in those that it starts, use the token and listen on loopback during the block.

        Args:
            kept: The processes outlive the command, and `kept_sessions` finds them.
        """
        changes: dict[str, str | None] = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            "RAY_AUTH_TOKEN": None,  # Ray would prefer it to the file
            ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",  # else Ray replaces 127.0.0.1 by the address of the host
        }
        if kept:
            changes[_KEPT] = str(self.folder)
        before = {name: os.environ.get(name) for name in changes}
        clustered = ray_constants.ENABLE_RAY_CLUSTER  # Ray read the variable when it was imported
        _set_environment(changes)
        ray_constants.ENABLE_RAY_CLUSTER = False
        try:
            yield
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = clustered
            _set_environment(before)

    def processes(self) -> list[psutil.Process]:
        """Return the running processes of a kept session, without this process and its parents.

        A process belongs to the session if it inherited the mark, writes to a file of the folder, or descends from such
        a process. A process that sets its title, as Ray's workers do, loses the mark. One that reads a log does not
        belong.
        """
        me = psutil.Process()
        spared = {me, *me.parents()}
        found: set[psutil.Process] = set()
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process not in spared and self._has(process):
                    found |= {process, *process.children(recursive=True)}
        return [process for process in found - spared if _runs(process)]

    def stop(self) -> None:
        """Kill the processes of a kept session, and delete its token.

        Raises:
            BrewError: Some processes did not stop.
        """
        for _ in range(_ROUNDS):
            processes = self.processes()
            if not processes:
                self.token_path.unlink(missing_ok=True)
                return
            for process in processes:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(processes, timeout=1.0)
        numbers = ", ".join(str(process.pid) for process in processes)
        raise BrewError(f"processes of the Ray in {self.folder} did not stop: {numbers}. End them with kill -9.")

    def remove(self) -> None:
        """Delete the folder, after the processes have ended."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _has(self, process: psutil.Process) -> bool:
        if process.environ().get(_KEPT) == str(self.folder):
            return True
        return any(
            Path(file.path).is_relative_to(self.folder) and getattr(file, "mode", "w") != "r"  # macOS has no modes
            for file in process.open_files()
        )


def kept_sessions() -> list[RaySession]:
    """Return the sessions of this user that outlived their commands and run now."""
    folders = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.uids().real == os.getuid() and _runs(process) and (folder := process.environ().get(_KEPT)):
                folders.add(folder)
    return [RaySession(Path(folder)) for folder in sorted(folders)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _set_environment(values: dict[str, str | None]) -> None:
    """Set or remove environment variables, and make Ray's C++ code in this process read them again."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    Config.initialize("")  # before the token: threads that still run read it only if tokens are enabled
    AuthenticationTokenLoader.instance().reset_cache()
