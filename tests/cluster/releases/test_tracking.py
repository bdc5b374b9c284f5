"""Releases in MLflow, by a server of the test that keeps what it gets."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from brew_cluster.releases.release import Release
from brew_cluster.releases.run import ReleaseFolder
from brew_cluster.releases.runner import LocalRunner
from brew_cluster.releases.steps import StepFailed
from brew_platform.console.plain_console import PlainConsole

Make = Callable[..., Release]


class Mlflow:
    """The calls of the REST API that releases make."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.calls.append((self.path, None, self.headers["authorization"]))
                self._answer(404, {"error_code": "RESOURCE_DOES_NOT_EXIST"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                path = self.path.removeprefix("/api/2.0/mlflow/")
                server.calls.append((path, body, self.headers["authorization"]))
                answers = {
                    "experiments/create": {"experiment_id": "3"},
                    "runs/create": {"run": {"info": {"run_id": "r1"}}},
                }
                self._answer(200, answers.get(path, {}))

            def _answer(self, status: int, content: Any) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def bodies(self, path: str) -> list[Any]:
        return [body for called, body, _ in self.calls if called == path]


@pytest.fixture
def mlflow() -> Iterator[Mlflow]:
    found = Mlflow()
    thread = threading.Thread(target=found.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.http.shutdown()
    found.http.server_close()
    thread.join()


@pytest.fixture
def console() -> PlainConsole:
    return PlainConsole(file=io.StringIO(), width=300)


def test_a_release_is_one_run_with_settings_and_figures(
    make_release: Make, runner: LocalRunner, console: PlainConsole, mlflow: Mlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    monkeypatch.setenv("FAIL", "benchmark")
    release = make_release()
    with pytest.raises(StepFailed):
        release.run(runner, console, mlflow=mlflow.url)
    monkeypatch.delenv("FAIL")
    release.run(runner, console, mlflow=mlflow.url)
    assert [body["status"] for body in mlflow.bodies("runs/update")] == ["FAILED", "RUNNING", "FINISHED"]
    assert [body["run_name"] for body in mlflow.bodies("runs/create")] == ["tiny"]  # it continues its run
    batches = mlflow.bodies("runs/log-batch")
    parameters = {item["key"]: item["value"] for body in batches for item in body.get("params", [])}
    assert parameters["benchmark.rows"] == "40"
    metrics = {item["key"]: item["value"] for item in batches[-1]["metrics"]}
    assert (metrics["job_apply.auc"], metrics["version"]) == (0.75, 7.0)
    assert metrics["seconds.cpt"] > 0
    assert {authorization for *_, authorization in mlflow.calls} == {"Bearer secret"}
    assert ReleaseFolder.load(release.folder).tracking == f"{mlflow.url}/#/experiments/3/runs/r1"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "not a url"])
def test_a_server_that_does_not_answer_ends_no_release(
    url: str, make_release: Make, runner: LocalRunner, console: PlainConsole
) -> None:
    release = make_release()
    release.run(runner, console, mlflow=url)
    assert isinstance(console.file, io.StringIO)
    assert f"MLflow at {url} does not take the run" in console.file.getvalue()
    assert ReleaseFolder.load(release.folder).tracking == ""
