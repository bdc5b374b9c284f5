"""Tracks releases in MLflow, through the REST API of its server (`/api/2.0/mlflow`)."""

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from brew_cluster.releases.run import ReleaseFolder, step_state
from brew_platform.console.plain_console import PlainConsole
from brew_platform.files import replace_atomically
from brew_platform.registry.gates import find_figure

__all__ = ["EXPERIMENT", "MlflowRun", "figures"]

EXPERIMENT = "brew360"
_RUN_FILE = "mlflow.json"  # in the folder of a release: its run, so that a release that continues keeps it
_LONGEST_VALUE = 500  # characters of a parameter that every version of the server accepts
_MOST_PARAMETERS = 100  # of one call
_FIGURES = ("auc", "baseline_auc", "logloss", "gain")  # of a task


@dataclass(frozen=True)
class MlflowRun:
    """The run of a release. A server that stops answering is reported once per call, and ends no release."""

    http: httpx.Client
    id: str
    page: str  # address of the run for a browser
    console: PlainConsole

    @classmethod
    def start(cls, url: str, release: ReleaseFolder, folder: Path, console: PlainConsole) -> "MlflowRun | None":
        """Create the run of a release with its settings, or continue it; None if the server does not answer.

        Args:
            url: Address of the server. MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD,
                are its credentials.
            release: The release.
            folder: Its folder.
            console: Receives a sentence if the server does not answer.
        """
        try:
            http = httpx.Client(base_url=f"{url.rstrip('/')}/api/2.0/mlflow", timeout=10.0, **_credentials())
            keys = hashlib.sha256("".join(step.key for step in release.steps).encode()).hexdigest()
            known = _read(folder / _RUN_FILE)
            if known.get("keys") == keys and known.get("url") == url:
                found = known
                _post(http, "runs/update", {"run_id": found["run"], "status": "RUNNING"})
            else:
                experiment = _experiment(http)
                body = {"experiment_id": experiment, "start_time": _now(), "run_name": release.name}
                run = _post(http, "runs/create", body)["run"]["info"]["run_id"]
                parameters = [
                    {"key": re.sub(r"[^\w./ -]", "_", key), "value": value[:_LONGEST_VALUE]}
                    for key, value in release.settings.items()
                ]
                for first in range(0, len(parameters), _MOST_PARAMETERS):
                    part = parameters[first : first + _MOST_PARAMETERS]
                    _post(http, "runs/log-batch", {"run_id": run, "params": part})
                found = {"url": url, "run": run, "experiment": experiment, "keys": keys}
                replace_atomically(folder / _RUN_FILE, json.dumps(found) + "\n")
            page = f"{url.rstrip('/')}/#/experiments/{found['experiment']}/runs/{found['run']}"
            return cls(http, found["run"], page, console)
        except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError) as error:
            _report(console, url, error)
            return None

    def end(self, release: ReleaseFolder, *, succeeded: bool) -> None:
        """Send the time of each step and the figures of the benchmark, and end the run."""
        values = {f"seconds.{step.name}": step_state(step).seconds for step in release.steps}
        values |= figures(release.read_output("benchmark"))
        if (number := release.read_output("publish").get("number")) is not None:
            values["version"] = float(number)
        time_ms = _now()
        metrics = [{"key": key, "value": value, "timestamp": time_ms, "step": 0} for key, value in values.items()]
        try:
            for first in range(0, len(metrics), 1_000):
                _post(self.http, "runs/log-batch", {"run_id": self.id, "metrics": metrics[first : first + 1_000]})
            status = "FINISHED" if succeeded else "FAILED"
            _post(self.http, "runs/update", {"run_id": self.id, "status": status, "end_time": _now()})
        except (httpx.HTTPError, ValueError) as error:
            _report(self.console, str(self.http.base_url), error)
        finally:
            self.http.close()


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """Return figures of a benchmark's report, as `task.figure`; those that are not finite numbers are left out."""
    tasks = report.get("tasks")
    if not isinstance(tasks, Mapping):
        return {}
    found = {f"{task}.{name}": find_figure(values, name) for task, values in tasks.items() for name in _FIGURES}
    return {name: value for name, value in found.items() if value is not None}


def _experiment(http: httpx.Client) -> str:
    response = http.get("experiments/get-by-name", params={"experiment_name": EXPERIMENT})
    if response.status_code == httpx.codes.NOT_FOUND:
        return str(_post(http, "experiments/create", {"name": EXPERIMENT})["experiment_id"])
    response.raise_for_status()
    return str(response.json()["experiment"]["experiment_id"])


def _post(http: httpx.Client, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    response = http.post(path, json=body)
    response.raise_for_status()
    content: dict[str, Any] = response.json()
    return content


def _credentials() -> dict[str, Any]:
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"headers": {"authorization": f"Bearer {token}"}}
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    return {"auth": (user, password)} if user and password else {}


def _report(console: PlainConsole, url: str, error: Exception) -> None:
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    console.print(f"MLflow at {url} does not take the run ({why}); the release is not tracked.", style="yellow")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _now() -> int:
    return round(time.time() * 1_000)
