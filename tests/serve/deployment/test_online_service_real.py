"""Ray Serve over HTTP and Ray Data batches from one registry: equal scores, and no process is left."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pyarrow as pa
import pytest

from brew_data.prompts.compiler import PastInteraction
from brew_data.schema import Tables
from brew_platform.errors import DataError, UserError
from brew_platform.ports import free_port
from brew_serve.client import RankClient, Retries
from brew_serve.errors import Late
from brew_serve.version import LoadedVersion

from ...otlp_collector import CollectedSpan, Collector, collector
from ...prometheus_programs import installed
from ..engine_processes import engine_cores
from ..running_ray import RAY, running_ray
from ..served_registry import write_served_registry

if TYPE_CHECKING:
    from brew_serve.deployment.online_service import AppConfig

pytestmark = RAY


@pytest.fixture(scope="module")
def collected() -> Iterator[Collector]:
    """The spans of all processes of the service."""
    with collector() as collected, pytest.MonkeyPatch.context() as patch:
        for name, value in collected.environment.items():
            patch.setenv(name, value)
        yield collected


@pytest.fixture(scope="module")
def ray_session(collected: Collector) -> Iterator[None]:
    import ray.data

    with running_ray():
        ray.data.DataContext.get_current().enable_progress_bars = False
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        yield


@pytest.fixture(scope="module")
def config(version: LoadedVersion, tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> "AppConfig":
    return write_served_registry(tmp_path_factory.mktemp("serving"), [version.folder], tables)


def inline(history: list[PastInteraction]) -> dict[str, Any]:
    return {
        "profile": {"title": "engineer", "location": "berlin"},
        "history": [
            {
                "entity_type": past.entity.entity_type,
                "fields": past.entity.fields,
                "surface": past.surface,
                "action": past.action,
                "timestamp": f"1970-01-01T00:00:{past.timestamp // 1_000_000:02}Z",
            }
            for past in history
        ],
    }


JOBS = ["e0", "e2", "e4", "e6"]
# Panels of events that did not happen: no refusal, no failure, no shadow, and no release
QUIET = {
    "Refused requests by reason",
    "Failures by version",
    "Shadow requests by outcome",
    "Steps of releases",
    "Time of the steps of releases",
}


def batch_requests(version: LoadedVersion, tables: Tables, history: list[PastInteraction]) -> pa.Table:
    """Requests on both tasks with Ada's whole history and every entity of the task's type; ids are entity numbers."""
    rows = []
    for task in version.suite.tasks:
        entity_type = version.suite.surface(task.surface).entity_type
        numbers = [i for i, past in enumerate(history) if past.entity.entity_type == entity_type]
        profile = {"title": "engineer", "location": "berlin"}
        prefix = version.compiler.prefix(task, profile, history)
        rows.append(
            {
                "task": task.name,
                "prefix_ids": prefix.ids,
                "question_ids": [version.compiler.question(task, profile, history[i].entity)[0] for i in numbers],
                "interaction_ids": numbers,
            }
        )
    return pa.Table.from_pylist(rows)


def test_online_and_batch_scores_are_equal_and_no_process_is_left(
    ray_session: None,
    collected: Collector,
    config: "AppConfig",
    version: LoadedVersion,
    tables: Tables,
    history: list[PastInteraction],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray.data
    from ray import serve

    from brew_serve.batch.dataset_scoring import score_requests
    from brew_serve.deployment.online_service import build_app, serve_http

    url = serve_http(build_app(config), port=free_port())
    with RankClient(url) as client:
        by_id = client.rank(task="job_apply", member_id="ada", candidates=JOBS)
        candidates = [{"id": id_, "fields": history[int(id_[1:])].entity.fields} for id_ in JOBS]
        carried = client.rank(task="job_apply", member=inline(history), candidates=candidates)
        posts = client.rank(task="post_interest", member_id="ada", candidates=["e1", "e3", "e5", "e7"])
        with pytest.raises(UserError, match="task 'nothing' is unknown; this model knows"):
            client.rank(task="nothing", member_id="ada", candidates=JOBS)
        with pytest.raises(UserError, match="member 'nobody' is unknown here"):
            client.rank(task="job_apply", member_id="nobody", candidates=JOBS)
        with pytest.raises(UserError, match="give every candidate once"):
            client.rank(task="job_apply", member_id="ada", candidates=["e0", "e0"])
    malformed = httpx.post(f"{url}/v1/rank", content=b"{", headers={"content-type": "application/json"})
    assert (malformed.status_code, malformed.json()["code"]) == (400, "invalid_request")
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok", "version": 1}
    with pytest.raises(UserError, match="the service runs already on this cluster"):
        serve_http(build_app(config), port=int(url.rsplit(":", 1)[1]))
    assert len(engine_cores()) == 1
    require_streams_through_the_fleet(url)
    require_a_trace_from_gateway_to_engine(url, collected)
    require_dashboards_of_the_service(url, tmp_path, installed("prometheus", monkeypatch))
    require_a_replica_that_hangs_to_be_left(url)

    serve.shutdown()

    assert not engine_cores()
    assert by_id.version == 1
    assert {item.id: item.score for item in carried.ranking} == pytest.approx(
        {item.id: item.score for item in by_id.ranking}, abs=1e-6
    )
    scored = score_requests(
        ray.data.from_arrow(batch_requests(version, tables, history)), version.folder, version="1"
    ).to_pandas()
    online = {int(item.id[1:]): item for item in [*by_id.ranking, *posts.ranking]}
    assert set(scored["interaction_id"]) == set(online)
    for row in scored.to_dict("records"):
        item = online[row["interaction_id"]]
        assert row["score"] == pytest.approx(item.score, abs=1e-5)
        assert row["version"] == "1"
        assert {p["action"]: p["probability"] for p in row["probabilities"]} == pytest.approx(
            item.probabilities, abs=1e-5
        )


def require_a_trace_from_gateway_to_engine(url: str, collected: Collector) -> None:
    """The spans of a request form a tree over two processes, below the span of the caller, and name no person."""
    trace, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    body = {"task": "job_apply", "member_id": "ada", "candidates": JOBS}
    headers = {"traceparent": f"00-{trace}-{caller}-01", "x-request-id": "caller-17"}
    answer = httpx.post(f"{url}/v1/rank", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text

    def names(spans: list[CollectedSpan]) -> set[str]:
        return {span.name for span in spans if span.trace_id == trace}

    expected = {"POST /v1/rank", "queue", "forward", "replica", "prepare", "score", "engine", "answer"}
    spans = collected.wait_for(lambda found: names(found) >= expected)
    by_name = {span.name: span for span in spans if span.trace_id == trace}
    assert by_name.keys() == expected
    parents = {
        "queue": "POST /v1/rank",
        "forward": "POST /v1/rank",
        "replica": "forward",
        "prepare": "replica",
        "score": "replica",
        "engine": "score",
        "answer": "replica",
    }
    assert {name: by_name[parent].span_id for name, parent in parents.items()} == {
        name: by_name[name].parent_id for name in parents
    }
    assert by_name["POST /v1/rank"].parent_id == caller
    assert answer.headers["traceparent"].split("-")[1:3] == [trace, by_name["POST /v1/rank"].span_id]
    assert (by_name["forward"].service, by_name["replica"].service) == ("brew360-gateway", "brew360-replica")
    assert by_name["engine"].attributes["brew360.calls"] == len(JOBS)
    assert {"generate", "POST /v1/completions"} <= {span.name for span in spans}
    sent = b"".join(collected.bodies)
    assert not [text for text in (b"ada", b"engineer", b"berlin", b"caller-17") if text in sent]


def require_dashboards_of_the_service(url: str, folder: Path, prometheus: Path | None) -> None:
    """Prometheus reads the service, and every panel has data, but for what did not happen."""
    from brew_cluster.dashboards.boards import DASHBOARDS
    from brew_cluster.dashboards.check import query_panels
    from brew_cluster.dashboards.config import DashboardsConfig
    from brew_cluster.dashboards.programs import prometheus_command, running
    from brew_cluster.dashboards.render import write_dashboards

    if prometheus is None:
        return
    config = DashboardsConfig(folder=str(folder), service=url, port=free_port(), interval_seconds=1.0)
    write_dashboards(config)
    boards = [board for board in DASHBOARDS if board.name in ("brew360-serving", "brew360-registry")]
    address = f"http://127.0.0.1:{config.port}"
    body = {"task": "job_apply", "member_id": "ada", "candidates": JOBS}
    command = prometheus_command(prometheus, config)
    with running(command, ready=f"{address}/-/ready", port=config.port, log=folder / "log"):
        end, empty = time.monotonic() + 40, {"not read yet"}
        while time.monotonic() < end and empty != QUIET:
            httpx.post(f"{url}/v1/rank", json=body, timeout=60).raise_for_status()
            time.sleep(0.5)
            empty = {result.panel.partition("/")[2] for result in query_panels(address, boards) if not result.series}
    assert empty == QUIET


def require_streams_through_the_fleet(url: str) -> None:
    """OpenAI's client reads a stream while it is generated; a client that leaves stops the generation."""
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        name = client.models.list().data[0].id
        assert client.models.retrieve(name).id == name
        with pytest.raises(openai.NotFoundError, match="model 'org/other' is not served here"):
            client.models.retrieve("org/other")
        body: dict[str, Any] = {"model": name, "prompt": "job nurse", "max_tokens": 8, "temperature": 0}
        whole = client.completions.create(**body)
        events = list(client.completions.create(**body, stream=True, stream_options={"include_usage": True}))
        assert "".join(event.choices[0].text for event in events[:-1]) == whole.choices[0].text
        assert events[-1].usage == whole.usage
        with pytest.raises(openai.BadRequestError, match="max_tokens is 256, but this model reads"):
            client.completions.create(**body | {"prompt": [9] * 300, "max_tokens": 256}, stream=True)
        long = client.completions.create(**body | {"max_tokens": 256, "temperature": 2}, stream=True)
        next(iter(long))
        assert outstanding_tokens(url) > 0
        long.close()
        deadline = time.monotonic() + 5
        while outstanding_tokens(url):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def outstanding_tokens(url: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("brew_outstanding_tokens"))


def require_a_replica_that_hangs_to_be_left(url: str) -> None:
    """A request to a stopped replica fails at its deadline, and the replica continues afterwards."""
    (engine,) = engine_cores()
    replica = engine.parent()
    assert replica is not None
    with RankClient(url, retries=Retries(max_retries=0)) as client:
        client.rank(task="job_apply", member_id="ada", candidates=JOBS)
        replica.suspend()
        try:
            start = time.monotonic()
            with pytest.raises(Late, match="no answer came by the deadline of 1000 ms: the replica that has this"):
                client.rank(task="job_apply", member_id="ada", candidates=JOBS, deadline_ms=1_000)
            assert 1 < time.monotonic() - start < 5
        finally:
            replica.resume()
        assert client.rank(task="job_apply", member_id="ada", candidates=JOBS, deadline_ms=10_000).version == 1


def test_a_batch_that_lacks_a_column_is_refused_by_name(
    ray_session: None, version: LoadedVersion, tables: Tables, history: list[PastInteraction]
) -> None:
    import ray.data

    from brew_serve.batch.dataset_scoring import score_requests

    requests = batch_requests(version, tables, history).drop_columns(["prefix_ids"])
    with pytest.raises(DataError, match="scoring requests lack column 'prefix_ids'"):
        score_requests(ray.data.from_arrow(requests), version.folder)


def test_a_version_that_does_not_load_is_reported_at_once(
    ray_session: None, config: "AppConfig", tmp_path: Path
) -> None:
    from brew_serve.deployment.online_service import build_app, serve_http
    from brew_serve.engines.config import EngineConfig

    app = build_app(replace(config, engine=EngineConfig(kv_cache_bytes=65536)))
    with pytest.raises(UserError, match=r"^kv_cache_bytes is 65536, which is too little for one prompt of 384 tokens"):
        serve_http(app, port=free_port())
    assert not engine_cores()


def test_without_keys_only_this_machine_is_served() -> None:
    from brew_serve.deployment.online_service import App, serve_http

    for host in ("0.0.0.0", "192.168.0.7", "::", "example.org"):
        with pytest.raises(UserError, match="without API keys the service listens on this machine only, not on"):
            serve_http(App(applications={}, keyed=False), 8000, host)
