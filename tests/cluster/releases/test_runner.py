"""Where commands run: as processes, as Ray jobs and as jobs of a gateway; the cluster is stood in for."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from brew_cluster.releases.runner import GatewayRunner, Job, LocalRunner, RayJobsRunner, require_shared_folder
from brew_platform.errors import UserError


def make_job(folder: Path, *arguments: str, name: str = "sft") -> Job:
    folder.mkdir(exist_ok=True)
    return Job(name=name, arguments=arguments, environment={"A": "x y"}, folder=folder, log=folder / "log.txt")


@pytest.mark.parametrize(("code", "ends"), [("print('hi', 3)", 0), ("print('hi'); sys.exit(4)", 4)])
def test_the_output_of_a_process_is_shown_and_kept(code: str, ends: int, tmp_path: Path) -> None:
    shown: list[str] = []
    job = make_job(tmp_path / "a", f"import os, sys; assert os.environ['A'] == 'x y'; {code}")
    assert LocalRunner([sys.executable, "-c"]).run(job, shown.append) == ends
    assert "".join(shown) == job.log.read_text()
    assert job.log.read_text().startswith("hi")


class Cluster:
    """Ray's job client: runs each entrypoint at once, and keeps its state and log."""

    def __init__(self, *, state: str | None = None) -> None:
        self.jobs: dict[str, tuple[str, str]] = {}
        self.entrypoints: list[str] = []
        self.state = state

    def submit_job(self, *, entrypoint: str, submission_id: str, metadata: dict[str, str]) -> None:
        self.entrypoints.append(entrypoint)
        done = subprocess.run(["sh", "-c", entrypoint], capture_output=True, text=True, check=False)
        state = self.state or ("SUCCEEDED" if done.returncode == 0 else "FAILED")
        self.jobs[submission_id] = (state, done.stdout)

    def get_job_status(self, id_: str) -> Any:
        if id_ not in self.jobs:
            raise RuntimeError(f"job {id_} does not exist")
        return SimpleNamespace(value=self.jobs[id_][0])

    def get_job_logs(self, id_: str) -> str:
        return self.jobs[id_][1]

    def stop_job(self, id_: str) -> None:
        self.jobs[id_] = ("STOPPED", "")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A brew360 on the cluster's path that prints its arguments, and fails if a file `fail` exists."""
    (tmp_path / "bin").mkdir()
    path = tmp_path / "bin" / "brew360"
    path.write_text('#!/bin/sh\necho "$PWD $A $@"\ntest ! -e fail\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    return path


def test_a_ray_job_runs_the_command_in_the_working_directory(program: Path, tmp_path: Path) -> None:
    cluster = Cluster()
    job, shown = make_job(tmp_path / "a", "train", "run=a b"), list[str]()
    assert RayJobsRunner("http://head:8265", client=cluster).run(job, shown.append) == 0
    assert "".join(shown) == job.log.read_text() == f"{tmp_path} x y train run=a b\n"


def test_a_release_that_was_killed_waits_for_its_job(program: Path, tmp_path: Path) -> None:
    """The job had been submitted; the next command finds it by the file in the step's folder."""
    cluster = Cluster()
    runner, job = RayJobsRunner("http://head:8265", client=cluster), make_job(tmp_path / "a", "train")
    runner.run(job, lambda text: None)
    runner.run(job, lambda text: None)
    assert len(cluster.entrypoints) == 1
    (id_,) = cluster.jobs
    cluster.jobs[id_] = ("FAILED", "")  # a job that failed runs again
    runner.run(job, lambda text: None)
    assert len(cluster.entrypoints) == 2
    cluster.jobs.clear()  # a cluster that was started again does not know it
    assert runner.run(job, lambda text: None) == 0
    assert len(cluster.entrypoints) == 3


def test_a_job_that_fails_has_an_exit_code_and_an_interrupt_stops_it(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fail").touch()
    cluster = Cluster()
    assert RayJobsRunner("http://head:8265", client=cluster).run(make_job(tmp_path / "a"), lambda text: None) == 1
    running = Cluster(state="RUNNING")

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("brew_cluster.releases.runner.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        RayJobsRunner("http://head:8265", client=running).run(make_job(tmp_path / "b"), lambda text: None)
    assert [state for state, _ in running.jobs.values()] == ["STOPPED"]


def test_a_folder_that_jobs_do_not_see_is_refused(tmp_path: Path) -> None:
    require_shared_folder(RayJobsRunner("http://head:8265", client=Cluster()), tmp_path / "steps")
    assert not list((tmp_path / "steps").glob(".probe-*"))
    blind = Cluster(state="FAILED")
    with pytest.raises(UserError, match=r"does not see .*steps, or not .*NFS.*s3://"):
        require_shared_folder(RayJobsRunner("http://head:8265", client=blind), tmp_path / "steps")


def test_a_gateway_runs_the_job_that_looks_for_the_folder(tmp_path: Path) -> None:
    gateway: Any = Gateway()
    require_shared_folder(GatewayRunner(gateway), tmp_path / "steps")
    ((spec, _),) = gateway.requests
    assert spec.entrypoint.startswith(f"cd {Path.cwd()} && test -f {tmp_path}/steps/.probe-")


class Gateway:
    """The client of a job gateway."""

    def __init__(self, state: str = "succeeded") -> None:
        self.state, self.requests = state, list[tuple[Any, str]]()

    def submit(self, spec: Any, *, request_id: str) -> str:
        self.requests.append((spec, request_id))
        return f"job-{len({request for _, request in self.requests})}"

    def show(self, job: str) -> Any:
        return SimpleNamespace(state=self.state)

    wait = show

    def logs(self, job: str, *, follow: bool) -> list[str]:
        return [f"{job} ran\n"]

    def cancel(self, job: str) -> None:
        self.state = "cancelled"


def test_a_job_of_a_gateway_has_the_gpus_of_training_and_is_submitted_once(tmp_path: Path) -> None:
    gateway: Any = Gateway()
    runner, job = GatewayRunner(gateway, gpus=8), make_job(tmp_path / "sft-1", "train", "sft")
    assert runner.run(job, lambda text: None) == 0
    ((spec, request),) = gateway.requests
    assert (spec.kind, spec.gpus, spec.name) == ("entrypoint", 8, "sft-1")
    assert spec.entrypoint == f"cd {tmp_path} && A='x y' brew360 train sft"
    (job.folder / "job.txt").unlink()  # killed after the submission, before its id was written
    runner.run(job, lambda text: None)
    assert gateway.requests[1][1] == request
    gateway.state = "failed"
    assert runner.run(job, lambda text: None) == 1
    assert gateway.requests[2][1] != request
    benchmark = make_job(tmp_path / "benchmark-1", "benchmark", name="benchmark")
    runner.run(benchmark, lambda text: None)
    assert (gateway.requests[3][0].gpus, gateway.requests[3][0].retries) == (0, 2)
    runner.run(make_job(tmp_path / "gates-1", name="gates"), lambda text: None)
    assert gateway.requests[4][0].retries == 0
    assert json.dumps(gateway.requests[3][0].model_dump())
