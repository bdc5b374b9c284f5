"""A local Ray beside another one on the same machine, and the service on a cluster that others use."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest

from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import BrewError, UserError
from brew_platform.ports import free_port

from ...serve.running_ray import RAY

pytestmark = RAY


class Neighbour(NamedTuple):
    folder: Path
    address: str


@pytest.fixture(scope="module")
def neighbour() -> Iterator["Neighbour"]:
    """A Ray that somebody else started on this machine, without a token."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # a short path, for sockets
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--port=0", "--num-cpus=4",
         "--include-dashboard=false", "--object-store-memory=100000000", "--disable-usage-stats",
         f"--temp-dir={folder}", f"--ray-client-server-port={free_port()}", "--dashboard-agent-listen-port=0"],
        env={**environment, "RAY_AUTH_MODE": "disabled", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    try:
        yield Neighbour(folder=folder, address=(folder / "ray_current_cluster").read_text().strip())
    finally:
        for process in processes_of(folder):
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Ray's processes with this temporary folder in their command lines, and their children."""
    roots = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
    return [process for root in roots if root.is_running() for process in (root, *root.children(recursive=True))]


def connect(address: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Connect a client that was given no token but these variables."""
    code = (
        "import sys; from ray._raylet import GcsClient\n"
        "print(len(GcsClient(sys.argv[1]).get_all_node_info(timeout=10)))"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "BREW360_"))}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, address],
        env=clean | environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def exposed_ports(processes: list[psutil.Process]) -> set[int]:
    """The TCP ports that other machines could reach."""
    loopback = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    return {
        connection.laddr.port
        for process in processes
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.ip not in loopback
    }


def test_a_local_ray_is_private_and_stopped_alone(
    neighbour: Neighbour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from brew_cluster.ray.local_ray import local_ray, stop_ray
    from brew_cluster.ray.session import kept_sessions

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    others = processes_of(neighbour.folder)
    with local_ray(detached=True, logs=tmp_path / "logs"):
        [session] = kept_sessions()
        address = ray.get_runtime_context().gcs_address
        assert ray.get(ray.remote(lambda: 3).remote()) == 3
        processes = session.processes()
        assert {"raylet", "gcs_server"} <= {process.name() for process in processes}
        assert exposed_ports([*processes, psutil.Process()]) == set()
        token = session.token_path.read_text()
        lines = "\0".join("\0".join(process.cmdline()) for process in processes)
        assert token not in lines
        assert connect(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(session.token_path)).stdout == "1\n"
        for refused in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
            done = connect(address, **refused)
            assert done.returncode != 0
            assert "1\n" not in done.stdout
        logs = list(session.folder.rglob("*.log")) + list(session.folder.rglob("*.out"))
        assert logs
        assert not any(token in log.read_text(errors="replace") for log in logs)
    assert kept_sessions() == [session]
    assert stop_ray() == [session.folder]
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)
    assert all(process.is_running() for process in others)
    assert connect(neighbour.address, RAY_AUTH_MODE="disabled").stdout == "1\n"
    session.remove()


def test_a_service_leaves_the_other_applications_of_a_cluster(
    neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray import serve
    from ray.serve.config import HTTPOptions

    from brew_cluster.jobs.serve import stop_serve
    from brew_cluster.ray.local_ray import any_ray
    from brew_serve.deployment.applications import find_serve, running_applications
    from brew_serve.deployment.online_service import App, serve_http
    from brew_serve.deployment.version_controller import APP_NAME, version_app_name

    @serve.deployment(ray_actor_options={"num_cpus": 0})
    class Echo:
        def __init__(self, error: str = "") -> None:
            if error:
                raise BrewError(error)

        def __call__(self, request: Any) -> str:
            return "here"

    def app(error: str = "") -> App:
        return App(applications={version_app_name(1): Echo.bind(), APP_NAME: Echo.bind(error)}, keyed=False)

    monkeypatch.setenv("RAY_ADDRESS", neighbour.address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    port = free_port()
    other = f"http://127.0.0.1:{port}/other"
    with any_ray(detached=False, logs=Path()):
        serve.start(http_options=HTTPOptions(port=port), proxy_location="HeadOnly")
        serve.run(Echo.bind(), name="other", route_prefix="/other", blocking=False)
        with pytest.raises(BrewError, match="it is broken"):
            serve_http(app("it is broken"), port)
        assert running_applications() == []
        assert httpx.get(other).text == "here"

        assert serve_http(app(), port) == f"http://127.0.0.1:{port}"
        with pytest.raises(UserError, match="runs already on this cluster"):
            serve_http(app(), port)
    stop_serve(PlainConsole())
    assert capsys.readouterr().out == f"stopped on {neighbour.address}: brew360, brew360-v1\n"
    assert httpx.get(other).text == "here"
    stop_serve(PlainConsole())
    assert capsys.readouterr().out == f"no service runs on {neighbour.address}.\n"
    with any_ray(detached=False, logs=Path()):
        with pytest.raises(UserError, match=rf"listens on 127\.0\.0\.1:{port} already"):
            find_serve(free_port(), "127.0.0.1")
        serve.run(Echo.bind(), name="root", route_prefix="/", blocking=False)
        with pytest.raises(Exception, match="is being used by application"):
            serve_http(app(), port)
        assert {"other", "root"} <= set(serve.status().applications)


def test_the_port_of_a_replica_needs_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Serve binds it to all interfaces, and it unpickles requests."""
    import grpc
    from ray import serve

    from brew_cluster.ray.local_ray import local_ray

    @serve.deployment(ray_actor_options={"num_cpus": 0})
    class Nothing:
        pass

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with local_ray(detached=False, logs=tmp_path / "logs"):
        serve.start(proxy_location="Disabled")
        serve.run(Nothing.bind(), name="nothing", route_prefix=None, blocking=False)
        children = psutil.Process().children(recursive=True)
        ports = exposed_ports([child for child in children if "ServeReplica:nothing" in " ".join(child.cmdline())])
        assert ports
        for port in ports:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
                with pytest.raises(grpc.RpcError) as refused:
                    call(b"", timeout=20)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
