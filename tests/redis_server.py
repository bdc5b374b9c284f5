"""A real Redis server for tests."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

__all__ = ["RedisServer", "find_redis"]


class RedisServer:
    """A local Redis server with an append-only file in `folder`; it can be killed and restarted.

    Args:
        binary: redis-server, and the folder of its libraries where it is unpacked and not installed.
        replica_of: The server whose replica this one is.
    """

    def __init__(self, binary: tuple[str, str], folder: Path, replica_of: "RedisServer | None" = None) -> None:
        self._binary, self._folder, self._process = binary, folder, None
        self._more = ["--replicaof", "127.0.0.1", str(replica_of.port)] if replica_of else []
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        """Start the server, and return when it answers."""
        program, libraries = self._binary
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder), "--save", ""]
        options += ["--repl-diskless-sync-delay", "0"]
        self._process = subprocess.Popen(
            [program, *options, "--appendonly", "yes", "--appendfsync", "everysec", *self._more],
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.5) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(100).startswith(b"+PONG"):
                    return
            time.sleep(0.05)
        raise AssertionError("redis-server does not answer")

    def pause(self) -> None:
        """Let the server hang: it accepts connections, but does not answer."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the server continue."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        self._process.kill()
        self._process.wait()


def find_redis() -> tuple[str, str]:
    """Return redis-server and the folder of its libraries: installed, or unpacked into the user's cache folder.

    Skips the test if it is neither installed nor can be unpacked from Debian's package.
    """
    if installed := shutil.which("redis-server"):
        return installed, ""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        pytest.skip("no redis-server is installed, and this is not a Debian whose package could be unpacked")
    folder = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache/brew360-tests/redis"
    try:
        if not (folder / "usr/bin/redis-server").exists():
            _unpack_redis(folder)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no redis-server is installed, and Debian's package cannot be unpacked ({error})")
    return str(folder / "usr/bin/redis-server"), os.pathsep.join(map(str, (folder / "usr/lib").glob("*-linux-gnu")))


def _unpack_redis(folder: Path) -> None:
    """Download redis-server and its dependencies, without root and without changing the system."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent))
    private: list[str] = []

    def apt(*words: str) -> str:
        command = ["apt-cache" if words[0] == "depends" else "apt-get", *private, *words]
        return subprocess.run(command, cwd=draft, check=True, capture_output=True, text=True, timeout=120).stdout

    def download() -> None:
        depends = apt("depends", "redis-server", "redis-tools", "--no-recommends", "--no-suggests", "--no-conflicts")
        names = {line.split()[1] for line in depends.splitlines() if line.strip().startswith("Depends:")}
        packages = {name for name in names if name.startswith(("lib", "lua", "redis")) and name != "libc6"}
        apt("download", "redis-server", *packages)

    try:
        download()
    except subprocess.SubprocessError:  # there are no lists of packages yet: fetch them into a separate folder
        (draft / "state/lists/partial").mkdir(parents=True)
        (draft / "cache/archives/partial").mkdir(parents=True)
        private += ["-o", f"Dir::State={draft}/state", "-o", f"Dir::Cache={draft}/cache"]
        private += ["-o", "Dir::State::status=/var/lib/dpkg/status"]
        apt("update")
        download()
    for package in draft.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(draft / "root")], check=True, timeout=60)
    with contextlib.suppress(OSError):  # another run was faster
        (draft / "root").rename(folder)
    shutil.rmtree(draft)
