"""Finds, installs and runs Prometheus and Grafana on this machine."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from brew_cluster.dashboards.config import DashboardsConfig
from brew_platform.errors import BrewError, UserError
from brew_platform.ports import require_free_port

__all__ = ["find_program", "grafana_command", "install_prometheus", "prometheus_command", "running"]

_READY_SECONDS = 60.0
_DOWNLOAD_SECONDS = 300.0
_PACKAGE = "prometheus"  # of Debian and Ubuntu; it has prometheus and promtool


def find_program(name: str) -> Path | None:
    """Return the path of a program: from PATH, or from where `install_prometheus` unpacked it."""
    found = shutil.which(name) or shutil.which(name, path=str(_cache() / _PACKAGE / "usr" / "bin"))
    return None if found is None else Path(found)


def install_prometheus() -> Path:
    """Download Debian's package and unpack it into this user's cache, without root.

    Returns:
        The folder: $XDG_CACHE_HOME/brew360/prometheus, or in ~/.cache.

    Raises:
        UserError: This machine has no apt-get, or the package cannot be downloaded.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise UserError(
            "this machine has no apt-get and dpkg-deb, from which Prometheus could be installed; put prometheus and "
            "promtool on the PATH (https://prometheus.io/download)."
        )
    folder = _cache() / _PACKAGE
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        try:
            _run(["apt-get", "download", _PACKAGE], work)
            [package] = Path(work).glob("*.deb")
            _run(["dpkg-deb", "-x", package.name, "files"], work)
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            output = getattr(error, "stderr", None) or str(error)
            raise UserError(
                f"Debian's package {_PACKAGE} cannot be installed: {str(output).strip()[-300:]} Run apt-get update, or "
                f"put prometheus and promtool on the PATH."
            ) from error
        shutil.rmtree(folder, ignore_errors=True)
        (Path(work) / "files").rename(folder)
    return folder


def prometheus_command(program: Path, config: DashboardsConfig) -> list[str]:
    """Return the command that runs Prometheus on this machine's loopback address with the files of `config.folder`."""
    folder = Path(config.folder).absolute()
    return [
        str(program),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--storage.tsdb.retention.time={config.keep_days}d",
        f"--web.listen-address=127.0.0.1:{config.port}",
        f"--web.console.templates={folder / 'consoles'}",
        f"--web.console.libraries={folder / 'consoles'}",
    ]


def grafana_command(config: DashboardsConfig) -> tuple[list[str], dict[str, str]] | None:
    """Return the command and the environment variables that run Grafana; None if it is not on the PATH."""
    program, arguments = shutil.which("grafana"), ["server"]
    if program is None:
        program, arguments = shutil.which("grafana-server"), []
    if program is None:
        return None
    own = Path(program).resolve().parent.parent  # of an unpacked archive; a package has its files in /usr/share
    home = os.environ.get("GF_PATHS_HOME") or str(own if (own / "conf").is_dir() else "/usr/share/grafana")
    folder = Path(config.folder).absolute() / "grafana"
    variables = {
        "GF_PATHS_PROVISIONING": str(folder / "provisioning"),
        "GF_PATHS_DATA": str(folder / "data"),
        "GF_PATHS_LOGS": str(folder / "logs"),
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": str(config.grafana_port),
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    }
    return [program, *arguments, "--homepath", home], variables


@contextmanager
def running(
    command: Sequence[str], *, ready: str, port: int, log: Path, variables: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen]:
    """Run a server during the block, from the time at which it answers.

    Args:
        command: Of the server.
        ready: URL that it answers with status 200 when it is ready.
        port: That it listens on.
        log: File of its output.
        variables: Further environment variables.

    Raises:
        UserError: The port is in use.
        BrewError: The server ended, or is not ready after 60 s.
    """
    require_free_port(port, "127.0.0.1")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **(variables or {})})
    try:
        _wait_until_ready(process, ready, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen, url: str, log: Path) -> None:
    end = time.monotonic() + _READY_SECONDS
    with httpx.Client(trust_env=False, timeout=5.0) as http:
        while time.monotonic() < end and process.poll() is None:
            try:
                if http.get(url).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
    state = "is not ready" if process.poll() is None else f"ended with status {process.returncode}"
    raise BrewError(f"{Path(str(process.args[0])).name} {state}; its log is {log}.")  # type: ignore[index]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "brew360"


def _run(command: Sequence[str], folder: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS)
