"""The executor on Ray's client, whose answers are those of Ray 2.60."""

from types import SimpleNamespace
from typing import Any

import pytest

from brew_cluster.gateway import executor as module
from brew_cluster.gateway.executor import ClusterUnavailable, ForeignRun, RayJobExecutor, Run, RunState
from brew_cluster.gateway.signed import MetadataSigner

RUN = Run(
    id="brew360-job-1-1",
    entrypoint="python a.py",
    fields={"job": "job-1", "attempt": "1"},
    environment={"A": "b"},
    node_labels={"brew360/role": "train"},
)


class RayClient:
    """What JobSubmissionClient does, in memory."""

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.lost_acknowledgement = False
        self.stopped: list[str] = []

    def submit_job(self, *, submission_id: str, **job: Any) -> str:
        if submission_id in self.jobs:
            raise RuntimeError(f"Request failed with status code 500: ValueError: {submission_id} already exists.")
        self.jobs[submission_id] = SimpleNamespace(
            status="PENDING", end_time=None, message=None, driver_exit_code=None, **job
        )
        if self.lost_acknowledgement:
            raise ConnectionError("reset")
        return submission_id

    def get_job_info(self, job: str) -> Any:
        if job not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job} does not exist.")
        return self.jobs[job]

    def stop_job(self, job: str) -> bool:
        self.stopped.append(job)
        return True

    def get_job_logs(self, job: str) -> str:
        self.get_job_info(job)
        return "0123456789"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> RayClient:
    fake = RayClient()
    monkeypatch.setattr(module, "_connect", lambda address: fake)
    return fake


@pytest.fixture
def executor(client: RayClient) -> RayJobExecutor:
    return RayJobExecutor("http://ray:8265", MetadataSigner(b"k" * 32), stop_seconds=60)


def test_a_check_finds_out_whether_ray_answers(
    client: RayClient, executor: RayJobExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor.check()  # Ray knows no such job, so it answers

    def fail(job: str) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(client, "get_job_info", fail)
    with pytest.raises(ClusterUnavailable, match="does not answer as it should: refused"):
        executor.check()


def test_a_run_is_submitted_once_with_signed_metadata(client: RayClient, executor: RayJobExecutor) -> None:
    assert executor.state(RUN).status == "missing"
    for _ in range(2):
        executor.submit(RUN)
    [job] = client.jobs.values()
    assert job.runtime_env == {"env_vars": {"A": "b", "RAY_JOB_STOP_WAIT_TIME_S": "60"}}
    assert job.entrypoint_label_selector == {"brew360/role": "train"}
    assert job.metadata["brew360.job"] == "job-1"
    assert executor.state(RUN).status == "active"


def test_a_lost_acknowledgement_is_found_out(client: RayClient, executor: RayJobExecutor) -> None:
    client.lost_acknowledgement = True
    executor.submit(RUN)
    assert executor.state(RUN).status == "active"


@pytest.mark.parametrize(
    ("ray", "state"),
    [
        ({"status": "RUNNING"}, RunState(status="active")),
        ({"status": "SUCCEEDED", "end_time": 5_000}, RunState(status="succeeded", exit_code=0, ended=5.0)),
        ({"status": "STOPPED", "end_time": 5_000}, RunState(status="stopped", ended=5.0)),
        (
            {"status": "FAILED", "driver_exit_code": 7, "message": "failed\nTraceback\nb\n\nlast"},
            RunState(status="failed", exit_code=7, message="Traceback b last"),
        ),
        ({"status": "FAILED", "message": "the actor died"}, RunState(status="failed", message="the actor died")),
    ],
)
def test_states(client: RayClient, executor: RayJobExecutor, ray: dict[str, Any], state: RunState) -> None:
    executor.submit(RUN)
    vars(client.jobs[RUN.id]).update(ray)
    assert executor.state(RUN) == state


def test_a_run_that_is_stopped_before_its_submission_never_starts(client: RayClient, executor: RayJobExecutor) -> None:
    executor.stop(RUN)
    executor.submit(RUN)  # a slow gateway
    [job] = client.jobs.values()
    assert job.entrypoint.startswith("echo ")
    job.status = "SUCCEEDED"
    assert executor.state(RUN).status == "stopped"


def test_only_active_runs_are_stopped(client: RayClient, executor: RayJobExecutor) -> None:
    executor.submit(RUN)
    executor.stop(RUN)
    client.jobs[RUN.id].status = "STOPPED"
    executor.stop(RUN)
    assert client.stopped == [RUN.id]


@pytest.mark.parametrize("change", ["metadata", "entrypoint", "fields"])
def test_a_job_of_somebody_else_is_refused(client: RayClient, executor: RayJobExecutor, change: str) -> None:
    executor.submit(RUN)
    job = client.jobs[RUN.id]
    if change == "metadata":
        job.metadata = {}
    elif change == "entrypoint":
        job.entrypoint = "curl evil"
    else:  # of another job of this gateway
        job.metadata = MetadataSigner(b"k" * 32).sign({"job": "job-2", "attempt": "1"}, job.entrypoint)
    for call in (executor.state, executor.submit, executor.stop):
        with pytest.raises(ForeignRun, match="did not submit"):
            call(RUN)


def test_logs_begin_at_the_offset(executor: RayJobExecutor) -> None:
    assert executor.logs(RUN, 0) == ""
    executor.submit(RUN)
    assert executor.logs(RUN, 7) == "789"


@pytest.mark.parametrize("error", [ConnectionError("refused"), RuntimeError("status code 500: x"), OSError("x")])
def test_a_cluster_that_fails_is_unavailable(
    client: RayClient, executor: RayJobExecutor, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    for name in ("get_job_info", "submit_job", "get_job_logs"):
        monkeypatch.setattr(client, name, fail)
    for call in (executor.state, executor.submit, executor.stop, lambda run: executor.logs(run, 0)):
        with pytest.raises(ClusterUnavailable, match="http://ray:8265 does not answer as it should"):
            call(RUN)
