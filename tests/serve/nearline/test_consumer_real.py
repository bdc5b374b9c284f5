"""End-to-end nearline tests over HTTP with vLLM: a promotion, and SIGKILL for a busy consumer and for Redis."""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from brew_data.schema import Tables
from brew_platform.errors import BrewError, UserError
from brew_platform.ports import free_port
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store
from brew_serve.client import RankClient
from brew_serve.context.base import MemberContext
from brew_serve.context.redis import RedisContext
from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.http.routes.nearline import nearline_router
from brew_serve.nearline.config import NearlineConfig
from brew_serve.nearline.dispatcher import DispatchConfig
from brew_serve.nearline.service import NearlineService
from brew_serve.ranking.service import RankingService
from brew_serve.schemas.nearline import EventBatch, NearlineRanking, NearlineRankRequest
from brew_serve.stores.sqlite_file import Unavailable
from brew_serve.version import LoadedVersion

from ..http_client import client_of_app
from ..running_ray import RAY, running_ray

if TYPE_CHECKING:
    from ray.serve import Application

# Celery's own, too
pytestmark = [*RAY, pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning:kombu")]

JSON = "application/json"
MEMBERS = ["ada", "new"]
TASKS = {"job_apply": ["e0", "e2", "e4"], "post_interest": ["e1", "e3"]}
DISPATCH = DispatchConfig(window=24, most_jobs=4, lost_seconds=4.0, retry_seconds=1.0, poll_seconds=0.1)


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    with running_ray():
        yield


def consumer(config: NearlineConfig, version: LoadedVersion, seconds: float) -> "Application":
    """A slow engine, so that a kill hits a busy consumer."""
    from brew_serve.nearline.consumer import build_consumer

    folder = version.folder

    def slow_engine(folder: Path, _: Any) -> Any:
        import asyncio

        from brew_serve.engines.torch import TorchEngine

        engine = TorchEngine(folder)
        answer = engine.next_token_logprobs

        async def slow(*arguments):  # type: ignore[no-untyped-def]
            await asyncio.sleep(seconds)
            return await answer(*arguments)

        engine.next_token_logprobs = slow  # type: ignore[method-assign]
        return engine

    return build_consumer(config, 7, lambda: folder, engine_factory=slow_engine)


def consumer_process() -> psutil.Process:
    """Wait for the process of the replica, and return it."""

    def find() -> psutil.Process | None:
        for child in psutil.Process().children(recursive=True):
            try:
                if any("ServeReplica" in part and "NearlineConsumer" in part for part in child.cmdline()):
                    return child
            except psutil.Error:
                continue
        return None

    return until(find, 60)


def until(found: Callable[[], Any], seconds: float) -> Any:
    """Wait until `found` returns a true value, and return it."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, "this took too long"
        time.sleep(0.1)
    return result


def batch(name: str, count: int, at: int) -> EventBatch:
    """Events of both members with different ids."""
    return EventBatch.model_validate_json(
        '{"events": ['
        + ",".join(
            f'{{"event_id": "{name}-{n}", "member_id": "{MEMBERS[n % 2]}", "entity_id": "e{2 * (n % 4)}", '
            f'"surface": "jobs", "action": "{"apply" if n % 3 else "skip"}", '
            f'"timestamp": "2026-01-31T12:{at:02}:{n:02}Z"}}'
            for n in range(count)
        )
        + "]}"
    )


def ask_for_all(service: NearlineService) -> None:
    for member in MEMBERS:
        for task, candidates in TASKS.items():
            service.rank(NearlineRankRequest(task=task, member_id=member, candidates=candidates))


def require_every_event_once(service: NearlineService, config: NearlineConfig, sent: set[str], base: int) -> None:
    """Check that no job is open, and that histories and rankings contain exactly the accepted events."""
    assert service.outbox.dead_letters() == []
    context = config.open_context()
    snapshots = {member: context.snapshot(member) for member in MEMBERS}
    context.close()
    assert sorted(id_ for snapshot in snapshots.values() for id_ in snapshot.events) == sorted(sent)
    assert sum(len(snapshot.history) for snapshot in snapshots.values()) == base + len(sent)
    for member, snapshot in snapshots.items():
        times = [past.timestamp for past in snapshot.history]
        assert times == sorted(times)
        for task, candidates in TASKS.items():
            ranking = service.ranking(task, member)
            assert (ranking.version, ranking.staleness_seconds, ranking.waiting) == (7, 0.0, 0)
            assert ranking.events.newest == snapshot.events
            assert {item.id for item in ranking.ranking} == set(candidates)


def all_done(service: NearlineService) -> bool:
    return not set(service.outbox.counts()) - {"done", "dead"}


def two_versions(version: LoadedVersion, folder: Path) -> Registry:
    """A registry with version 1 in production, and version 2 with other weights."""
    from safetensors.torch import load_file, save_file

    registry = Registry(open_store(str(folder / "store")))
    for number in (1, 2):
        files = shutil.copytree(version.folder, folder / f"v{number}")
        if number == 2:
            (weights,) = files.glob("*.safetensors")
            tensors = load_file(weights)
            save_file({**tensors, "lm_head.weight": tensors["lm_head.weight"] * 1.5}, weights, {"format": "pt"})
        registry.publish(files, signature={}, lineage={}, metrics={}, author="test")
    registry.promote(1, force=True, reason="test", author="test")
    return registry


def test_events_over_http_update_rankings_across_a_promotion(
    ray_session: None, version: LoadedVersion, tables: Tables, tmp_path: Path
) -> None:
    from ray import serve

    from brew_serve.deployment.online_service import AppConfig, build_app, serve_http

    registry = two_versions(version, tmp_path)
    MemberContext.build(tables, tmp_path / "context.sqlite")
    nearline = NearlineConfig(
        folder=str(tmp_path / "nearline"),
        context_path=str(tmp_path / "context.sqlite"),
        most_attempts=10,
        cpus=0.4,
        dispatch=DISPATCH,
    )
    config = AppConfig(
        registry_url=str(tmp_path / "store"),
        context_path=str(tmp_path / "context.sqlite"),
        cache_folder=str(tmp_path / "versions"),
        nearline=nearline,
        follow_seconds=0.5,
        cpus=0.4,
    )
    sent: list[str] = []
    versions_by_events: dict[tuple[str, ...], set[int]] = {}  # versions, by the events that their ranking includes

    def send() -> None:
        sent.append(f"e{len(sent)}")
        number = len(sent)
        event = {"event_id": sent[-1], "member_id": "ada", "entity_id": f"e{2 * (number % 4)}", "surface": "jobs"}
        event |= {"action": "skip" if number % 3 else "apply"}
        event |= {"timestamp": f"2026-01-31T12:{number // 60:02}:{number % 60:02}Z"}
        assert client.send_events([event]).accepted == 1
        assert sum(outbox.counts().values()) == len(sent) + 1, "it is on the disk, with the request"

    def read() -> NearlineRanking | None:
        try:
            ranking = client.nearline_ranking("job_apply", "ada")
        except UserError:  # it is being computed
            return None
        versions_by_events.setdefault(tuple(ranking.events.newest), set()).add(ranking.version)
        return ranking

    def shown() -> NearlineRanking | None:
        ranking = read()  # `waiting` is not exact for a moment while a request is ranked again
        return ranking if ranking and not ranking.waiting and ranking.events.newest == sent else None

    def require_equal_online(ranking: NearlineRanking, number: int, began: datetime) -> None:
        assert ranking.events.newest == sent
        assert ranking.staleness_seconds == 0
        assert began < ranking.computed_at < datetime.now(UTC)
        online = client.rank(task="job_apply", member_id="ada", candidates=TASKS["job_apply"])
        assert (ranking.version, online.version) == (number, number)
        assert [item.id for item in ranking.ranking] == [item.id for item in online.ranking]
        for near, on in zip(ranking.ranking, online.ranking, strict=True):
            assert near.score == pytest.approx(on.score, abs=1e-5)
            assert near.probabilities == pytest.approx(on.probabilities, abs=1e-5)

    url = serve_http(build_app(config), port=free_port())
    outbox = nearline.open_outbox()
    try:
        with RankClient(url) as client:
            began = datetime.now(UTC)
            client.rank_nearline(task="job_apply", member_id="ada", candidates=TASKS["job_apply"])
            send()
            first = until(shown, 60)
            require_equal_online(first, 1, began)

            registry.promote(2, force=True, reason="test", author="test")

            def moved() -> bool:  # events continue meanwhile
                send()
                time.sleep(2)
                ranking = read()
                return ranking is not None and ranking.version == 2 and consumers() == {2}

            def consumers() -> set[int]:
                names = serve.status().applications
                return {int(name.rsplit("v", 1)[1]) for name in names if name.startswith("brew360-nearline-v")}

            until(moved, 240)
            until(lambda: client.status().versions[0].version == 2, 60)
            began = datetime.now(UTC)
            send()
            second = until(shown, 60)
            require_equal_online(second, 2, began)
        until(lambda: set(outbox.counts()) == {"done"}, 30)
        assert all(len(versions) == 1 for versions in versions_by_events.values()), "no event is ranked by two versions"
        assert [item.score for item in first.ranking] != [item.score for item in second.ranking]
        print(f"\n{len(sent)} events; {[(len(seen), *versions) for seen, versions in versions_by_events.items()]}")
    finally:
        outbox.close()
        serve.shutdown()


@pytest.mark.faults
def test_a_killed_consumer_neither_loses_nor_repeats_jobs(
    ray_session: None, version: LoadedVersion, tables: Tables, history: list, tmp_path: Path
) -> None:
    from ray import serve

    MemberContext.build(tables, tmp_path / "context.sqlite")
    config = NearlineConfig(
        folder=str(tmp_path / "nearline"),
        context_path=str(tmp_path / "context.sqlite"),
        threads=2,
        most_attempts=10,
        dispatch=DISPATCH,
    )
    serve.run(consumer(config, version, 0.05), name="nearline", route_prefix=None)
    service = NearlineService.open(config, lambda: version.suite)
    sent: set[str] = set()
    try:
        ask_for_all(service)
        for number in range(3):
            events = batch(f"b{number}", 20, number)
            service.events(events)
            sent |= {event.event_id for event in events.events}
        process = consumer_process()
        until(lambda: service.outbox.counts().get("done", 0) >= 4, 60)
        process.kill()
        assert not all_done(service)
        held = [path for path in (config.queue_folder / "inbox").glob("*.msg") if config.queue_name in path.name]
        in_queue = len(held)
        enqueued = len(service.outbox.enqueued())
        assert enqueued > in_queue  # the broker does not hold what the consumer had received: only the outbox does
        service.events(batch("b3", 20, 3))  # accepted while no consumer lives
        sent |= {f"b3-{n}" for n in range(20)}
        (config.queue_folder / "inbox" / f"0_garbage.{config.queue_name}.msg").write_text("{")
        until(lambda: all_done(service), 120)
        require_every_event_once(service, config, sent, base=len(history))
        assert consumer_process().pid != process.pid
        assert list((config.queue_folder / "results").iterdir()) == []
    finally:
        service.close()
        serve.delete("nearline")


@pytest.mark.faults
def test_redis_killed_under_load_loses_no_job_and_returns_503(
    ray_session: None, version: LoadedVersion, tables: Tables, history: list, tmp_path: Path, new_redis: Any
) -> None:
    from ray import serve

    RedisContext.build(tables, new_redis.url)
    config = NearlineConfig(
        folder=str(tmp_path / "nearline"), redis_url=new_redis.url, threads=2, most_attempts=10, dispatch=DISPATCH
    )
    serve.run(consumer(config, version, 0.02), name="nearline", route_prefix=None)
    service = NearlineService.open(config, lambda: version.suite)
    sent: set[str] = set()
    refused: list[BrewError] = []

    def read() -> NearlineRanking | None:
        try:
            return service.ranking("job_apply", "ada")
        except Unavailable as error:
            refused.append(error)
            return None

    def load(name: str, rounds: int, minute: int) -> None:
        """Send an event, which must be accepted even if Redis is down."""
        for number in range(rounds):
            events = batch(f"{name}{number}", 4, minute + number)
            service.events(events)
            sent.update(event.event_id for event in events.events)
            time.sleep(0.1)

    try:
        ask_for_all(service)
        until(lambda: service.outbox.counts().get("done", 0) >= 4, 60)
        load("before", 8, 0)
        new_redis.kill()
        load("down", 8, 20)
        assert read() is None
        new_redis.start()
        load("after", 8, 40)
        until(read, 20)
        until(lambda: all_done(service), 120)
        require_every_event_once(service, config, sent, base=len(history))
        assert {error.retry_after for error in refused} == {2.0}
    finally:
        service.close()
        serve.delete("nearline")


@pytest.mark.faults
async def test_a_hung_redis_delays_neither_events_nor_probes_and_loses_nothing(
    ray_session: None,
    version: LoadedVersion,
    service: RankingService,
    tables: Tables,
    history: list,
    tmp_path: Path,
    new_redis: Any,
) -> None:
    from ray import serve

    RedisContext.build(tables, new_redis.url)
    config = NearlineConfig(
        folder=str(tmp_path / "nearline"), redis_url=new_redis.url, threads=2, most_attempts=10, dispatch=DISPATCH
    )
    await asyncio.to_thread(serve.run, consumer(config, version, 0.02), name="nearline", route_prefix=None)
    nearline = NearlineService.open(config, lambda: version.suite)
    api = create_app(
        LocalBackend(service),
        routers=(nearline_router(lambda: nearline),),
        degraded=lambda: ["nearline"] if nearline.problem else [],
    )
    sent: set[str] = set()
    seconds: dict[str, list[float]] = {"events": [], "health": [], "read": []}

    async def timed(kind: str, call: Any) -> httpx.Response:
        start = time.monotonic()
        answer: httpx.Response = await call
        seconds[kind].append(time.monotonic() - start)
        return answer

    async def send_events(http: httpx.AsyncClient, name: str) -> None:
        events = batch(name, 4, len(sent) % 60)
        answer = await timed(
            "events", http.post("/v1/events", content=events.model_dump_json(), headers={"content-type": JSON})
        )
        assert answer.status_code == 202, answer.text
        sent.update(event.event_id for event in events.events)

    try:
        async with client_of_app(api) as http:
            await asyncio.to_thread(ask_for_all, nearline)
            await asyncio.to_thread(until, lambda: nearline.outbox.counts().get("done", 0) >= 4, 60)
            await send_events(http, "before")
            new_redis.pause()
            reads = []
            for number in range(40):
                result = "/v1/nearline/rankings?task=job_apply&member_id=ada"
                reads += [asyncio.create_task(timed("read", http.get(result))) for _ in range(5)]
                await send_events(http, f"hung{number}")
                health = await timed("health", http.get("/ready"))
                assert health.status_code == 200
                await asyncio.sleep(0.1)
            assert health.json()["degraded"] == ["nearline"]
            answers = await asyncio.gather(*reads)
            assert {answer.status_code for answer in answers} == {503}
            assert all(float(answer.headers["retry-after"]) > 0 for answer in answers)
            assert max(seconds["events"]) < 1.0, "an event waits for the disk only"
            assert max(seconds["health"]) < 0.2
            assert max(seconds["read"]) < 6.0
            assert sorted(seconds["read"])[100] < 0.2, "most are refused at once"
            new_redis.resume()
            await asyncio.to_thread(until, lambda: all_done(nearline), 120)
            await asyncio.to_thread(require_every_event_once, nearline, config, sent, len(history))
            assert (await http.get("/ready")).json().get("degraded", []) == []
    finally:
        new_redis.resume()
        nearline.close()
        serve.delete("nearline")
