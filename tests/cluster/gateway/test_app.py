"""The HTTP application: submissions, refusals with a sentence, states, logs, cancel, scopes, audit and metrics."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brew_cluster.gateway.app import create_app
from brew_cluster.gateway.client import JobClient
from brew_cluster.gateway.config import GatewayConfig
from brew_cluster.gateway.executor import Run
from brew_cluster.gateway.runs import build_run
from brew_cluster.gateway.server import run_gateway
from brew_cluster.gateway.spec import JobSpec
from brew_platform.console.logging import open_process_log
from brew_platform.errors import StorageError, UserError
from brew_platform.tracing import configure_tracing, shutdown_tracing

from ...otlp_collector import collector
from .conftest import Gateway

SHELL = {"kind": "entrypoint", "entrypoint": "python train.py"}
TRAIN = {"kind": "recipe", "command": "train", "recipe": "cpt", "overrides": ["run=a"]}


class Api:
    """Calls the application with the key of a team."""

    def __init__(self, gateway: Gateway, keys: dict[str, str]) -> None:
        self.gateway, self.keys = gateway, keys
        self.http = TestClient(create_app(gateway.service, gateway.controller))
        self.submitted = 0

    def call(self, method: str, path: str, team: str = "feed", **arguments: Any) -> Any:
        headers = {"authorization": f"Bearer {self.keys[team]}"} if team else {}
        return self.http.request(method, path, headers=headers, **arguments)

    def submit(self, team: str = "feed", **job: Any) -> Any:
        self.submitted += 1
        body = {"job": {**(SHELL if "kind" not in job else {}), **job}, "request_id": f"{self.submitted:016d}"}
        return self.call("POST", "/v1/jobs", team, json=body)

    def client(self, team: str = "feed") -> JobClient:
        def handle(request: httpx.Request) -> httpx.Response:
            answer = self.http.request(
                request.method, request.url.raw_path.decode(), content=request.content, headers=dict(request.headers)
            )
            return httpx.Response(answer.status_code, content=answer.content)

        return JobClient("http://test", api_key=self.keys[team], transport=httpx.MockTransport(handle))

    def show(self, job: str, team: str = "feed") -> Any:
        return self.call("GET", f"/v1/jobs/{job}", team).json()


@pytest.fixture
def api(gateway: Gateway, keys: dict[str, str]) -> Api:
    return Api(gateway, keys)


def test_a_job_runs_from_the_queue_to_its_end(api: Api) -> None:
    response = api.submit(gpus=4, name="nightly")
    assert response.status_code == 201
    job = response.json()
    assert (job["id"], job["state"], job["position"], job["command"]) == ("job-1", "queued", None, "python train.py")
    api.gateway.step()
    assert api.show("job-1")["state"] == "running"
    assert api.gateway.cluster.active() == ["brew360-job-1-1"]
    api.gateway.clock.now += 1_800
    api.gateway.cluster.end("brew360-job-1-1", "succeeded")
    api.gateway.step()
    job = api.show("job-1")
    assert (job["state"], job["gpu_seconds"]) == ("succeeded", 4 * 1_800)
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["succeeded"]
    assert api.call("GET", "/v1/usage").json() == {
        "team": "feed", "month": "2026-05", "gpu_hours": 2.0, "gpu_hours_per_month": 100, "running_gpus": 0,
        "concurrent_gpus": 8, "queued": 0, "running": 0,
    }  # fmt: skip


def test_the_same_request_is_one_job(api: Api) -> None:
    body = {"job": SHELL, "request_id": "r" * 16}
    ids = {api.call("POST", "/v1/jobs", json=body).json()["id"] for _ in range(3)}
    assert ids == {"job-1"}
    assert api.call("POST", "/v1/jobs", "ads", json=body).json()["id"] == "job-2"


@pytest.mark.parametrize(
    ("job", "status", "words"),
    [
        ({"gpus": 9}, 400, "the job needs 9 GPUs, but jobs on this cluster can use 8"),
        ({"gpus": 8, "max_seconds": 90_000}, 403, "the job may use 200.0 (8 GPUs for max_seconds=90000)"),
        ({"gpu": 1}, 400, "job.gpu is not a key of this request"),
        ({"gpus": -1}, 400, "job.gpus: Input should be greater than or equal to 0"),
        ({"gpus": "8"}, 400, "job.gpus: Input should be a valid integer"),
        ({"name": "../x"}, 400, "name is '../x'; use up to 100 letters"),
        ({"node_labels": {"a b": "c"}}, 400, "which is not a label of a node"),
        ({**TRAIN, "recipe": "../cpt"}, 400, "recipe is '../cpt'; give the name"),
        ({**TRAIN, "recipe": "nothing"}, 400, "nothing is neither a YAML file nor"),
        ({**TRAIN, "overrides": ["run=a", "trian.seed=1"]}, 400, "Did you mean train?"),
        ({**TRAIN, "overrides": []}, 400, "run has no value"),
        ({**TRAIN, "overrides": ["run=a", "train.workers=2"], "gpus": 4}, 400, "each worker uses one GPU"),
        ({**TRAIN, "overrides": ["run"]}, 400, "overrides has 'run'"),
        ({**TRAIN, "options": ["--fast"]}, 400, "No such option: --fast"),
        ({**TRAIN, "command": "data build", "recipe": "synthetic", "overrides": []}, 400, "Missing option '--out'"),
        ({**TRAIN, "command": "registry gc"}, 400, "a recipe is run by train or data build"),
        ({"kind": "entrypoint"}, 400, "a job of kind entrypoint has an entrypoint"),
        ({**TRAIN, "recipe": "a.yaml", "recipe_text": "trian: {}"}, 400, "unknown key trian in a.yaml"),
        ({**TRAIN, "recipe": "a.yaml", "recipe_text": "train: {seed: '${oc.env:SECRET}'}"}, 400, "oc.env"),
    ],
)  # fmt: skip
def test_bad_submissions_are_refused_with_a_sentence_that_the_ledger_keeps(
    api: Api, job: dict[str, Any], status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hidden-value")
    response = api.submit(**job)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert words in error
    assert "hidden-value" not in error
    [event] = api.call("GET", "/v1/audit", "ops").json()
    assert (event["kind"], event["team"], event["reason"]) == ("refuse", "feed", error)
    assert event["by"] == f"key {api.keys['feed'][5:13]}"
    assert event["spec"]
    assert api.gateway.ledger.read(lambda state, now: state.jobs) == {}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not valid JSON"),
        (b'{"job": 1, "job": 2}', "job occurs twice"),
        (b"[]", "the body"),
        (b"{}", "job is missing"),
        (b'{"job": {"kind": "entrypoint", "entrypoint": "x"}, "request_id": "../../../../etc/pw"}', "request_id"),
    ],
)
def test_malformed_bodies_are_refused(api: Api, body: bytes, words: str) -> None:
    response = api.call("POST", "/v1/jobs", content=body)
    assert response.status_code == 400
    assert words in response.json()["error"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(st.sampled_from([*JobSpec.model_fields, "x"]), JSON, max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([SHELL, TRAIN]), FIELDS)
def test_whatever_is_sent_is_accepted_or_refused_with_a_sentence(
    api: Api, job: dict[str, Any], changes: dict[str, Any]
) -> None:
    api.gateway.clock.now += 60  # the limit per minute
    response = api.submit(**{**job, **changes})
    assert response.status_code in (201, 400, 403), response.text
    if response.status_code != 201:
        assert set(response.json()) == {"error", "code"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("overrides", ["a=" + "x" * 4_000] * 9),
        ("overrides", ["a=" + "'" * 4_000] * 3),  # a quote is five characters in a shell
        ("recipe_text", "a: " + "x" * 40_000),
    ],
)
def test_a_command_that_no_process_can_start_is_refused(api: Api, field: str, value: Any) -> None:
    response = api.submit(**{**TRAIN, field: value})
    assert "has more than 32,768 bytes" in response.text or "have more than 32,768 bytes" in response.text


def test_a_body_that_is_too_large_is_refused(api: Api) -> None:
    response = api.call("POST", "/v1/jobs", content=b" " * 300_000)
    assert response.status_code == 413


@pytest.mark.parametrize("key", ["", "b360_00000000_" + "x" * 43, "nonsense", "b360_0\x00"])
def test_a_wrong_key_is_refused_and_kept(api: Api, key: str) -> None:
    headers = {"authorization": f"Bearer {key}".encode()} if key else {}
    response = api.http.get("/v1/jobs", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    [event] = api.call("GET", "/v1/audit", "ops").json()
    assert (event["kind"], event["team"]) == ("refuse", "")
    assert "x" * 43 not in json.dumps(event)


def test_a_wrong_key_does_not_learn_that_the_store_fails(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(key: str, data: bytes) -> bool:
        raise StorageError("cannot write in /srv/ledger.")

    monkeypatch.setattr(api.gateway.store, "put_if_absent", fail)
    response = api.call("GET", "/v1/jobs", "")
    assert response.status_code == 401
    assert "/srv" not in response.text


def test_wrong_keys_fill_the_ledger_only_slowly(api: Api) -> None:
    for _ in range(60):
        assert api.call("GET", "/v1/jobs", "").status_code == 401
    assert len(api.call("GET", "/v1/audit", "ops").json()) == 20


def test_a_team_submits_only_so_many_jobs_a_minute(make_gateway: Callable[..., Gateway], keys: dict[str, str]) -> None:
    api = Api(make_gateway(max_submissions_per_minute=3), keys)
    assert [api.submit().status_code for _ in range(4)] == [201, 201, 201, 429]
    assert api.submit("ads").status_code == 201
    api.gateway.clock.now += 20
    assert api.submit().status_code == 201


def test_a_full_queue_is_refused(make_gateway: Callable[..., Gateway], keys: dict[str, str]) -> None:
    api = Api(make_gateway(max_queued_jobs=2), keys)
    assert [api.submit(gpus=1).status_code for _ in range(3)] == [201, 201, 403]


def test_scopes(api: Api) -> None:
    job = api.submit("ads").json()["id"]
    assert api.call("GET", f"/v1/jobs/{job}", "feed").status_code == 404
    assert api.call("POST", f"/v1/jobs/{job}/cancel", "feed").status_code == 404
    assert api.call("GET", "/v1/jobs?all_teams=true", "feed").status_code == 403
    assert [found["id"] for found in api.call("GET", "/v1/jobs?all_teams=true", "ops").json()] == [job]
    assert api.submit("ops").status_code == 403
    response = api.call("GET", "/v1/jobs", "web")
    assert response.status_code == 403
    assert "needs a key with the scope jobs, and this key of team web has rank" in response.json()["error"]
    assert api.call("GET", "/v1/audit", "feed").status_code == 403
    assert api.call("GET", "/metrics", "feed").status_code == 403
    assert api.call("POST", f"/v1/jobs/{job}/cancel", "ops").json()["state"] == "cancelled"


def test_a_queued_job_and_a_running_job_are_cancelled(api: Api) -> None:
    running, queued = (api.submit(gpus=8).json()["id"] for _ in range(2))
    api.gateway.step()
    assert api.show(queued)["position"] == 1
    assert api.show(queued)["reason"].startswith("needs 8 GPUs; team feed uses 8 of the 8")
    assert api.call("POST", f"/v1/jobs/{queued}/cancel").json()["state"] == "cancelled"
    assert api.call("POST", f"/v1/jobs/{running}/cancel").json()["state"] == "stopping"
    api.gateway.step()
    api.gateway.step()
    job = api.show(running)
    assert job["state"] == "cancelled"
    assert job["reason"].startswith("cancelled by key ")
    assert api.call("POST", f"/v1/jobs/{running}/cancel").json()["state"] == "cancelled"
    assert api.gateway.cluster.active() == []


def test_a_preempted_job_continues_as_its_next_attempt(api: Api) -> None:
    job = api.submit(gpus=8).json()["id"]
    api.gateway.step()
    urgent = api.submit("ads", gpus=8).json()["id"]
    for _ in range(3):
        api.gateway.step()
    assert api.gateway.cluster.active() == [f"brew360-{urgent}-1"]
    found = api.show(job)
    assert (found["state"], found["position"], found["attempts"][0]["outcome"]) == ("queued", 1, "preempted")
    assert "preempted by job-" in found["reason"]
    api.gateway.cluster.end(f"brew360-{urgent}-1", "succeeded")
    api.gateway.step()
    assert api.gateway.cluster.active() == [f"brew360-{job}-2"]
    assert api.show(job)["reason"] == ""


def test_logs_of_all_attempts_follow_each_other(api: Api) -> None:
    job = api.submit(retries=1).json()["id"]
    assert api.call("GET", f"/v1/jobs/{job}/logs").json()["attempt"] == 0
    api.gateway.step()
    part = api.call("GET", f"/v1/jobs/{job}/logs?offset=4").json()
    assert (part["text"], part["is_complete"]) == (f"of brew360-{job}-1\n", False)
    api.gateway.cluster.end(f"brew360-{job}-1", "failed", exit_code=1, message="boom")
    api.gateway.step()
    api.gateway.step()
    api.gateway.cluster.end(f"brew360-{job}-2", "failed", exit_code=1, message="boom")
    api.gateway.step()
    assert api.call("GET", f"/v1/jobs/{job}/logs?attempt=3").status_code == 404
    client = api.client()
    assert list(client.logs(job, follow=True)) == [f"log of brew360-{job}-1\n", f"log of brew360-{job}-2\n"]
    state = client.wait(job)
    assert (state.state, state.reason) == ("failed", "exit code 1: boom after 1 retries")


@pytest.mark.parametrize("code", [2, 130])
def test_invalid_input_is_not_repeated(api: Api, code: int) -> None:
    job = api.submit().json()["id"]
    api.gateway.step()
    api.gateway.cluster.end(f"brew360-{job}-1", "failed", exit_code=code, message="no such table")
    api.gateway.step()
    assert api.show(job)["state"] == "failed"
    assert len(api.show(job)["attempts"]) == 1


def test_a_training_gets_its_workers_from_gpus_and_its_node_labels(api: Api) -> None:
    found = api.submit(**TRAIN, gpus=4, node_labels={"brew360/role": "train"}).json()
    assert found["spec"]["overrides"][1:] == ["train.workers=4", "train.node_labels={brew360/role: train}"]
    assert api.submit(**TRAIN).json()["spec"]["gpus"] == 2  # the recipe has two workers, and the cluster has GPUs


def test_the_client_refuses_what_the_gateway_refuses(api: Api) -> None:
    client = api.client()
    with pytest.raises(UserError, match="team feed can use 8 at a time|can use 8"):
        client.submit(JobSpec(kind="entrypoint", entrypoint="x", gpus=9))
    with pytest.raises(UserError, match="has no job"):
        client.show("job-77")
    assert client.jobs() == []
    assert client.usage().team == "feed"


def test_metrics_and_health(api: Api) -> None:
    api.submit(gpus=2)
    api.submit(gpus=99)
    api.gateway.step()
    text = api.call("GET", "/metrics", "ops").text
    assert 'brew360_jobs_running_gpus{team="feed"} 2.0' in text
    assert 'brew360_jobs_refused_total{reason="invalid",team="feed"} 1.0' in text
    assert 'brew360_jobs_wait_seconds_bucket{le="10.0",team="feed"} 1.0' in text
    assert 'brew360_jobs_wait_seconds_sum{team="feed"} 2.0' in text
    assert "brew360_jobs_follows_cluster 1.0" in text
    assert api.http.get("/health").status_code == api.http.get("/ready").status_code == 200
    api.gateway.controller.problem = "Ray is down"
    assert api.http.get("/ready").status_code == 503
    assert api.http.get("/v2").json()["code"] == "not_served"
    assert "/v1/jobs" in api.http.get("/openapi.json").json()["paths"]


def test_a_job_belongs_to_the_trace_of_its_submission(
    gateway: Gateway, keys: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with collector() as collected, open_process_log(tmp_path / "jobs.log", process="jobs"):
        for name, value in collected.environment.items():
            monkeypatch.setenv(name, value)
        configure_tracing("jobs")
        api = Api(gateway, keys)
        body = {"job": {**SHELL, "name": "zanzibar"}, "request_id": "r" * 16}
        headers = {
            "authorization": f"Bearer {keys['feed']}",
            "traceparent": f"00-{trace}-00f067aa0ba902b7-01",
            "x-request-id": "caller-17",
        }
        response = api.http.post("/v1/jobs", headers=headers, json=body)
        assert response.status_code == 201
        assert api.http.get("/health").status_code == 200
        gateway.step()
        shutdown_tracing()
    [span] = [span for span in collected.spans if span.name == "POST /v1/jobs"]
    assert (span.service, span.trace_id, span.attributes["http.response.status_code"]) == ("brew360-jobs", trace, 201)
    assert response.headers["x-request-id"] == "caller-17"
    run = gateway.ledger.read(lambda state, now: build_run(state.jobs["job-1"], 1, gateway.config))
    assert run.environment["TRACEPARENT"] == response.headers["traceparent"] == f"00-{trace}-{span.span_id}-01"
    assert run.environment["BREW360_JOB_TEAM"] == "feed"
    assert not any(text in b"".join(collected.bodies) for text in (b"zanzibar", b"caller-17"))
    records = [json.loads(line) for line in (tmp_path / "jobs.log").read_text().splitlines()]
    accessed = [record for record in records if record["message"] == "request"]
    assert [(record["route"], record["status"]) for record in accessed] == [("/v1/jobs", 201), ("/health", 200)]
    assert (accessed[0]["request_id"], accessed[0]["trace_id"]) == ("caller-17", trace)


def test_without_tracing_a_job_gets_no_trace(api: Api) -> None:
    api.submit()
    api.gateway.step()
    gateway = api.gateway
    run = gateway.ledger.read(lambda state, now: build_run(state.jobs["job-1"], 1, gateway.config))
    assert "TRACEPARENT" not in run.environment


def test_all_commands_of_an_entrypoint_run_in_the_folder_of_the_team(
    make_gateway: Callable[..., Gateway], keys: dict[str, str], tmp_path: Path
) -> None:
    def run_of(folder: Path) -> Run:
        gateway = make_gateway(folder=str(folder))
        Api(gateway, keys).submit(entrypoint="true & pwd; wait")
        return gateway.ledger.read(lambda state, now: build_run(list(state.jobs.values())[-1], 1, gateway.config))

    done = subprocess.run(
        ["sh", "-c", run_of(tmp_path).entrypoint], capture_output=True, text=True, cwd="/", check=True
    )
    assert done.stdout == f"{tmp_path}/feed\n"
    (tmp_path / "file").touch()
    failed = subprocess.run(["sh", "-c", run_of(tmp_path / "file").entrypoint], capture_output=True, text=True, cwd="/")
    assert (failed.returncode, failed.stdout) == (1, "")


def test_a_certificate_that_cannot_be_read_is_reported_before_the_address(
    tmp_path: Path, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BREW360_JOBS_SIGNING_KEY", "k" * 32)
    config = GatewayConfig(
        keys_path=str(tmp_path / "keys.yaml"), store=str(tmp_path / "jobs"), tls_certificate="a.pem", tls_key="b.pem"
    )
    said: list[str] = []
    with pytest.raises(UserError, match=r"tls_certificate a\.pem .* cannot be used"):
        run_gateway(config, on_ready=said.append)
    assert not said
