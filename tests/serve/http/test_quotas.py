"""`Quotas`: one contract for the process and for Redis; many gateways on one Redis; and a Redis that fails or hangs."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from bench.limits import quotas as quota_bench
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brew_platform.errors import ConfigError, UserError
from brew_platform.identity.keys import Team
from brew_serve.errors import QuotaExceeded
from brew_serve.http.config import QuotaConfig
from brew_serve.http.quota import LocalQuotas, Quotas
from brew_serve.http.shared_quota import RedisQuotas, open_quotas
from brew_serve.metrics import Meters

from ...redis_server import RedisServer

LONG = 0.5  # seconds; this machine may be busy


def open_redis(url: str, prefix: str, *, gateways: int = 1, seconds: float = LONG) -> RedisQuotas:
    config = QuotaConfig(redis_url=url, prefix=prefix, timeout_seconds=seconds)
    return RedisQuotas(config, time.monotonic, Meters(), gateways=gateways)


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex}:"


@pytest.fixture(params=["local", "redis"])
async def quotas(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[Quotas]:
    quotas: Quotas = LocalQuotas(time.monotonic)
    if request.param == "redis":
        quotas = open_redis(request.getfixturevalue("redis_url"), prefix)
    yield quotas
    assert quotas.problem == ""
    await quotas.close()


async def send(quotas: Quotas, team: Team, tokens: int = 0, used: int | None = None) -> None:
    quotas.check(team)
    settle = await quotas.charge(team, tokens)
    settle(tokens if used is None else used)


async def refused(quotas: Quotas, team: Team, tokens: int = 0) -> QuotaExceeded:
    with pytest.raises(QuotaExceeded) as raised:
        await send(quotas, team, tokens)
    return raised.value


# --- The contract ---


async def test_a_burst_of_a_second_is_accepted_and_the_next_request_waits(quotas: Quotas) -> None:
    team = Team(name="ads", requests_per_second=5)
    start = time.monotonic()
    for _ in range(5):
        await send(quotas, team)
    error = await refused(quotas, team)
    assert str(error).startswith("team ads may send 5 requests a second; wait 0.")
    assert error.limit == "rate"
    assert error.retry_after is not None
    assert 0 < error.retry_after <= 0.2
    await asyncio.sleep(0.25)
    await send(quotas, team)
    assert time.monotonic() - start >= 0.2


async def test_a_rate_below_one_still_allows_one_request(quotas: Quotas) -> None:
    team = Team(name="ads", requests_per_second=0.1)
    await send(quotas, team)
    error = await refused(quotas, team)
    assert error.retry_after == pytest.approx(10, abs=LONG)


async def test_tokens_are_charged_as_used_and_refused_when_they_are_used_up(quotas: Quotas) -> None:
    team = Team(name="ads", tokens_per_minute=600)
    await send(quotas, team, 10, used=500)
    error = await refused(quotas, team, 500)  # 100 are left
    assert str(error).startswith("team ads may use 600 tokens a minute and has used them; wait ")
    assert error.limit == "quota"
    assert error.retry_after == pytest.approx(40, abs=LONG)
    await send(quotas, team, 90)


async def test_a_request_that_was_not_admitted_costs_no_tokens(quotas: Quotas) -> None:
    team = Team(name="ads", tokens_per_minute=1_000)
    for _ in range(10):
        await send(quotas, team, 800, used=0)
    await send(quotas, team, 1_000)


async def test_a_request_above_the_quota_is_taken_from_full_buckets(quotas: Quotas) -> None:
    team = Team(name="ads", tokens_per_minute=600)
    await send(quotas, team, 1_800)
    error = await refused(quotas, team, 1)
    assert error.retry_after == pytest.approx(120, abs=1)


async def test_a_refusal_takes_no_tokens(quotas: Quotas) -> None:
    team = Team(name="ads", tokens_per_minute=600)
    await send(quotas, team, 400)
    for _ in range(5):
        await refused(quotas, team, 300)
    await send(quotas, team, 200)


async def test_teams_do_not_share_their_quotas(quotas: Quotas) -> None:
    for name in ("ads", "feed", "a.b-c_d"):
        await send(quotas, Team(name=name, requests_per_second=1, tokens_per_minute=1), 1)


async def test_changed_limits_hold_at_once(quotas: Quotas) -> None:
    await send(quotas, Team(name="ads", tokens_per_minute=600), 600)
    await send(quotas, Team(name="ads"), 10**9)
    less = Team(name="ads", tokens_per_minute=1)
    with contextlib.suppress(QuotaExceeded):
        await send(quotas, less, 1)
    await refused(quotas, less, 1)


async def test_a_team_without_limits_is_never_refused(quotas: Quotas) -> None:
    for _ in range(100):
        await send(quotas, Team(name="ads"), 1, used=10**6)


# --- Several gateways, one Redis ---


@asynccontextmanager
async def gateways(url: str, prefix: str, number: int) -> AsyncIterator[list[RedisQuotas]]:
    opened = [open_redis(url, prefix) for _ in range(number)]
    try:
        yield opened
    finally:
        for quotas in opened:
            await quotas.close()


async def test_gateways_share_one_quota(redis_url: str, prefix: str) -> None:
    team = Team(name="ads", requests_per_second=20, tokens_per_minute=6_000)
    accepted = 0
    async with gateways(redis_url, prefix, 4) as opened:
        start = time.monotonic()
        for _ in range(30):
            results = await asyncio.gather(*(send(each, team) for each in opened), return_exceptions=True)
            accepted += results.count(None)
        assert 20 <= accepted <= 20 + 20 * (time.monotonic() - start)
        await opened[0].charge(Team(name="feed", tokens_per_minute=600), 600)
        await refused(opened[1], Team(name="feed", tokens_per_minute=600), 1)


async def test_a_team_leaves_no_key_once_its_buckets_are_full(redis_url: str, prefix: str) -> None:
    client = redis.Redis.from_url(redis_url)
    key = f"{prefix}quota:ads"
    async with gateways(redis_url, prefix, 1) as [quotas]:
        await send(quotas, Team(name="ads", requests_per_second=10))
        assert 0 < client.pttl(key) <= 100
        await send(quotas, Team(name="ads", tokens_per_minute=600), 600)
        assert 50_000 < client.pttl(key) <= 60_000
        await send(quotas, Team(name="slow", requests_per_second=1e-9))
        assert 0 < client.ttl(f"{prefix}quota:slow") <= 30 * 86_400
        await send(quotas, Team(name="feed", requests_per_second=100))
        await asyncio.sleep(0.05)
        assert not client.exists(f"{prefix}quota:feed")
    assert 0 < client.ttl(f"{prefix}quota-gateways") <= 10


async def test_what_a_request_used_is_settled_within_a_second_without_another_request(
    redis_url: str, prefix: str
) -> None:
    team = Team(name="ads", tokens_per_minute=600)
    async with gateways(redis_url, prefix, 2) as [first, second]:
        await send(first, team, 10, used=600)
        others = [Team(name=f"team-{n}", tokens_per_minute=600) for n in range(250)]
        for other in others:
            await send(first, other, 600, used=0)
        for _ in range(40):
            await asyncio.sleep(0.1)
            if not first._pending:
                break
        assert (await refused(second, team, 100)).retry_after == pytest.approx(10, abs=4)
        for other in others:
            await send(second, other, 600)


operations = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["take", "settle"]), st.floats(0, 1), st.floats(0, 0.002)),
    min_size=1,
    max_size=40,
)


@given(st.floats(1, 10_000), operations)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_interleaving_of_gateways_takes_more_than_rate_times_time_plus_burst(
    redis_url: str, rate: float, steps: list[tuple[int, str, float, float]]
) -> None:
    """Takes and corrections of three gateways, whose tokens in use never exceed what the buckets have had."""

    async def run() -> None:
        minute = max(1, round(rate * 60))
        team, burst = Team(name="ads", tokens_per_minute=minute), minute
        async with gateways(redis_url, f"test-{uuid.uuid4().hex}:", 3) as opened:
            start, used, running = time.monotonic(), 0.0, []
            for gateway, kind, share, pause in steps:
                if kind == "take":
                    tokens = max(1, round(share * burst))
                    try:
                        settle = await opened[gateway].charge(team, tokens)
                    except QuotaExceeded:
                        pass
                    else:
                        running.append((settle, tokens))
                        used += tokens
                elif running:
                    settle, tokens = running.pop()
                    final = round(tokens * share)  # less than was predicted
                    settle(final)
                    used += final - tokens
                assert used <= (burst + minute / 60 * (time.monotonic() - start)) * (1 + 1e-6) + 1
                await asyncio.sleep(pause)
            assert [quotas.problem for quotas in opened] == [""] * 3

    asyncio.run(run())


# --- Failures ---


async def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("fault", ["kill", "hang"])
async def test_an_outage_under_load_divides_the_quota_and_ends_by_itself(
    new_redis: RedisServer, prefix: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "brew_serve")
    team, limit = Team(name="ads", requests_per_second=40), 0.2
    opened = [open_redis(new_redis.url, prefix, gateways=9, seconds=limit) for _ in range(2)]
    for quotas in opened:
        await quotas.open()
    await wait_until(lambda: [quotas._gateways for quotas in opened] == [2, 2])
    waits: list[float] = []
    accepted = {"before": 0, "outage": 0, "after": 0}
    phase = "before"

    async def load(quotas: RedisQuotas) -> None:
        while True:
            start = time.monotonic()
            try:
                await quotas.charge(team, 0)
                accepted[phase] += 1
            except QuotaExceeded:
                pass
            waits.append(time.monotonic() - start)
            await asyncio.sleep(0.005)

    tasks = [asyncio.create_task(load(quotas)) for quotas in opened for _ in range(2)]
    await asyncio.sleep(0.5)
    assert all(quotas.problem == "" for quotas in opened)
    (new_redis.kill if fault == "kill" else new_redis.pause)()
    phase, start = "outage", time.monotonic()
    await wait_until(lambda: all(quotas.problem for quotas in opened))
    await asyncio.sleep(1.5)
    assert all(quotas.problem for quotas in opened)
    phase, seconds = "after", time.monotonic() - start
    (new_redis.start if fault == "kill" else new_redis.resume)()
    await wait_until(lambda: not any(quotas.problem for quotas in opened))
    await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert 30 <= accepted["outage"] <= 40 * (seconds + 1) + 2, "each of two gateways grants half"
    assert max(waits) < limit + LONG
    assert sum(wait > limit / 2 for wait in waits) <= 4, "the requests of the outage do not wait"
    for quotas in opened:
        fallbacks = quotas._meters.text().decode()
        count = next(line for line in fallbacks.splitlines() if line.startswith("brew_quota_fallbacks_total"))
        assert float(count.split()[1]) > 50
        await quotas.close()
    messages = [record.getMessage() for record in caplog.records]
    assert sum("Redis does not count the quotas of teams" in text for text in messages) == 2, "one for each gateway"
    assert sum("counts the quotas of teams again" in text for text in messages) == 2
    assert "each of 2 gateways" in messages[0]


async def test_a_redis_that_never_answered_divides_by_the_configured_gateways(prefix: str) -> None:
    quotas = open_redis("redis://127.0.0.1:1/0", prefix, gateways=4)
    team = Team(name="ads", requests_per_second=8, tokens_per_minute=600)
    start, sent = time.monotonic(), 0
    while time.monotonic() - start < 0.2:
        try:
            await send(quotas, team)
            sent += 1
        except QuotaExceeded:
            await asyncio.sleep(0.01)
    assert 2 <= sent <= 3
    assert quotas.problem
    fresh = Team(name="feed", tokens_per_minute=600)
    await send(quotas, fresh, 150, used=100)
    await send(quotas, fresh, 50)
    assert (await refused(quotas, fresh, 150)).retry_after == pytest.approx(60, abs=1)
    await quotas.close()


async def test_a_cancelled_request_leaves_the_connection_usable(new_redis: RedisServer, prefix: str) -> None:
    quotas = open_redis(new_redis.url, prefix, seconds=1.0)
    team = Team(name="ads", requests_per_second=1_000)
    await quotas.charge(team, 0)
    new_redis.pause()
    waiting = [asyncio.create_task(quotas.charge(team, 0)) for _ in range(20)]
    await asyncio.sleep(0.05)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    new_redis.resume()
    for n in range(50):
        await quotas.charge(Team(name=f"team-{n}", requests_per_second=1), 0)
    assert quotas.problem == ""
    await quotas.close()


# --- Settings ---


def test_settings_choose_the_implementation(redis_url: str) -> None:
    def opened(**settings: Any) -> Quotas:
        return open_quotas(QuotaConfig(**settings), time.monotonic, Meters(), gateways=1)

    assert isinstance(opened(), LocalQuotas)
    assert isinstance(opened(redis_url=redis_url), RedisQuotas)
    with pytest.raises(UserError, match=r"'redis://h:port/0' is not a URL of Redis"):
        opened(redis_url="redis://h:port/0")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"redis_url": "http://h"}, "redis_url must begin with redis://"),
        ({"redis_url": "redis://me:secret@h:1/0"}, "redis_url contains a password.*give redis://h:1/0, and the"),
        ({"redis_url": "redis://h", "password_env": "A", "password_file": "b"}, "both password_env and password_file"),
        ({"timeout_seconds": 2}, "timeout_seconds is 2; give a finite number, more than 0 and at most 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as raised:
        QuotaConfig(**values)
    assert "secret" not in str(raised.value)


def test_the_password_is_in_a_file_or_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("secret\n")
    monkeypatch.setenv("QUOTA_PASSWORD", "other")
    monkeypatch.chdir(tmp_path)
    file = QuotaConfig(redis_url="redis://h", password_file="password")
    assert file.password() == file.absolute().password() == "secret"
    assert file.absolute().password_file == str(tmp_path / "password")
    assert QuotaConfig(redis_url="redis://h", password_env="QUOTA_PASSWORD").password() == "other"
    assert QuotaConfig(redis_url="redis://h").password() is None
    with pytest.raises(UserError, match="environment variable NOTHING .* is not set"):
        QuotaConfig(redis_url="redis://h", password_env="NOTHING").password()
    with pytest.raises(UserError, match="cannot be read"):
        QuotaConfig(redis_url="redis://h", password_file="nothing").password()


async def test_a_server_with_a_password_accepts_the_one_in_the_file(
    new_redis: RedisServer, tmp_path: Path, prefix: str
) -> None:
    client = redis.Redis.from_url(new_redis.url)
    client.config_set("requirepass", "secret")
    (tmp_path / "password").write_text("secret")
    config = QuotaConfig(
        redis_url=new_redis.url, prefix=prefix, password_file=str(tmp_path / "password"), timeout_seconds=LONG
    )
    for used, problem in ((config, False), (QuotaConfig(redis_url=new_redis.url, timeout_seconds=LONG), True)):
        quotas = open_quotas(used, time.monotonic, Meters(), gateways=1)
        await send(quotas, Team(name="ads", requests_per_second=1))
        assert bool(quotas.problem) == problem
        await quotas.close()


# --- The benchmark ---


def test_the_cost_of_a_quota_is_measured(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota_bench, "ROUNDS", 64)
    figures = quota_bench.measure_quotas(redis_url)
    assert list(figures) == ["in the process", "in Redis, 1 at a time", "in Redis, 16 at a time"]
    for values in figures.values():
        assert 0 < values["median_us"] <= values["p99_us"] < 1e6
    assert list(quota_bench.measure_quotas(None)) == ["in the process"]
