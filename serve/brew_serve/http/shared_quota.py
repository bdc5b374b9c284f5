"""Quotas that all gateways count together, in a Redis.

Each team has one key, a hash of the levels of its two token buckets and the time of the last change, in seconds of the
server's clock. One script refills the buckets, takes from them, and sets the key to expire when the buckets are full
again, since a missing key means full buckets. A request calls it once; what the request used in the end is sent with
the next call for its team, or within a second.

A request waits at most `timeout_seconds`. When Redis fails or does not answer in time, this gateway counts alone, and
grants an equal part of each limit: the limit divided by the number of gateways that Redis knew last. The other
requests of the outage do not try Redis. Once a second the gateway tries to register itself; when that succeeds, Redis
counts again. Its buckets may be full then, as those of the gateway were when the outage began, so that an outage grants
a team at most two bursts beyond its limits.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any, Literal, cast

from brew_platform.identity.keys import Team
from brew_serve.http.config import QuotaConfig
from brew_serve.http.quota import LocalQuotas, Quotas, Settle, quota_exceeded
from brew_serve.metrics import Meters
from brew_serve.stores.redis_server import connect_async

__all__ = ["RedisQuotas", "open_quotas"]

_LOG = logging.getLogger("brew_serve")
_BEAT_SECONDS = 1.0  # between two registrations of a gateway, and two attempts to return to Redis
_SEEN_SECONDS = 10  # for which a gateway that does not register counts
_SETTLED_TEAMS = 100  # that one call settles
_LONGEST_SECONDS = 30 * 86_400  # of a key's lifetime

# ARGV: requests, per second, burst; tokens, per second, burst; tokens to give back. A rate of 0 stands for no limit.
_TAKE = """
local function take(level, amount, rate, burst)  -- as Bucket.take
  local missing = math.min(amount, burst) - level
  if missing > 1e-9 * burst then return level, missing / rate end
  return level - amount, 0
end

local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1e6
local stored = redis.call('HMGET', KEYS[1], 'requests', 'tokens', 'at')
local passed = math.max(0, now - (tonumber(stored[3]) or now))
local levels, refused, seconds, fill = {}, '', 0, 0
for i, name in ipairs({'requests', 'tokens'}) do
  local amount, rate, burst = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  if rate > 0 then
    local level = math.min(burst, (tonumber(stored[i]) or burst) + passed * rate)
    if name == 'tokens' then level = math.min(burst, level + tonumber(ARGV[7])) end
    if amount > 0 and refused == '' then
      level, seconds = take(level, amount, rate, burst)
      if seconds > 0 then refused = name end
    end
    fill = math.max(fill, (burst - level) / rate)
    levels[#levels + 1] = name
    levels[#levels + 1] = string.format('%.17g', level)
  end
end
if fill > 0 then
  redis.call('HSET', KEYS[1], 'at', string.format('%.17g', now), unpack(levels))
  redis.call('PEXPIRE', KEYS[1], math.min(math.ceil(fill * 1000), tonumber(ARGV[8])))
else
  redis.call('DEL', KEYS[1])
end
return {refused, string.format('%.17g', seconds)}
"""

# ARGV: id of this gateway, seconds for which it counts. Returns the number of gateways.
_REGISTER = """
local clock = redis.call('TIME')
redis.call('ZADD', KEYS[1], clock[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', clock[1] - ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
"""


def open_quotas(config: QuotaConfig, clock: Callable[[], float], meters: Meters, *, gateways: int) -> Quotas:
    """Return the quotas that the settings describe.

    Args:
        config: With `redis_url`, Redis counts; otherwise this process.
        clock: Seconds.
        meters: Count the requests that were counted without Redis, and measure its calls.
        gateways: Number of gateways of the service, for an outage that begins before Redis has answered once.

    Raises:
        UserError: The address is malformed, or the password cannot be read.
    """
    if config.redis_url is None:
        return LocalQuotas(clock)
    return RedisQuotas(config, clock, meters, gateways=gateways)


class RedisQuotas:
    """`Quotas` in a Redis; see `open_quotas`. Belongs to the event loop that uses it first."""

    def __init__(self, config: QuotaConfig, clock: Callable[[], float], meters: Meters, *, gateways: int) -> None:
        assert config.redis_url is not None
        self._config, self._clock, self._meters, self._gateways = config, clock, meters, gateways
        self._redis = connect_async(
            config.redis_url,
            password=config.password(),
            seconds=config.timeout_seconds,
            max_connections=config.max_connections,
        )
        self._take = self._redis.register_script(_TAKE)
        self._register = self._redis.register_script(_REGISTER)
        self._id = uuid.uuid4().hex
        self._early = LocalQuotas(clock)  # of requests only; one gateway never accepts more than all may
        self._alone: LocalQuotas | None = None  # during an outage
        self._since = 0.0  # of the outage
        self._pending: dict[str, tuple[Team, float]] = {}  # tokens to give back; negative: to take
        self._beating: asyncio.Task[None] | None = None

    @property
    def problem(self) -> str:
        return "" if self._alone is None else "Redis does not count the quotas now"

    def check(self, team: Team) -> None:
        self._early.check(team)

    async def charge(self, team: Team, tokens: int) -> Settle:
        if team.requests_per_second is None and (team.tokens_per_minute is None or tokens == 0):
            return lambda used: None
        await self.open()
        if self._alone is None:
            start = time.perf_counter()
            try:
                async with asyncio.timeout(self._config.timeout_seconds):
                    limit, seconds = await self._charge_redis(team, tokens)
            except _failures() as error:
                self._begin_outage(error)
            else:
                if limit:
                    raise quota_exceeded(team, limit, seconds)
                return self._settle(team, tokens)
            finally:
                self._meters.stage_seconds.labels("quota").observe(time.perf_counter() - start)
        alone = self._alone
        assert alone is not None
        self._meters.quota_fallbacks.inc()
        alone.check(team)
        return await alone.charge(team, tokens)

    async def open(self) -> None:
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())

    async def close(self) -> None:
        """Stop registering, and close the connections."""
        if self._beating is not None:
            self._beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._beating
        await self._redis.aclose()

    async def _charge_redis(self, team: Team, tokens: int) -> tuple[Literal["", "rate", "quota"], float]:
        """Return the limit that refuses the request, and the seconds to wait; an empty limit if none does."""
        _, give_back = self._pending.pop(team.name, (team, 0.0))
        refused, seconds = await self._take(**self._arguments(team, 1, tokens, give_back))
        limit = {b"": "", b"requests": "rate", b"tokens": "quota"}[refused]
        return cast(Literal["", "rate", "quota"], limit), float(seconds)

    def _arguments(self, team: Team, requests: int, tokens: int, give_back: float) -> dict[str, Any]:
        rate, minute = team.requests_per_second or 0.0, team.tokens_per_minute or 0
        limits = [requests, rate, max(1.0, rate), tokens, minute / 60, minute, give_back, _LONGEST_SECONDS * 1000]
        return {"keys": [f"{self._config.prefix}quota:{team.name}"], "args": limits}

    def _settle(self, team: Team, tokens: int) -> Settle:
        outage = self._since

        def settle(used: int) -> None:
            if used != tokens and team.tokens_per_minute is not None and self._since == outage:
                _, give_back = self._pending.get(team.name, (team, 0.0))
                self._pending[team.name] = team, give_back + tokens - used

        return settle

    async def _beat(self) -> None:
        """Register this gateway, and settle what no later request has settled; end an outage when that succeeds."""
        while True:
            try:
                async with asyncio.timeout(self._config.timeout_seconds):
                    keys = [f"{self._config.prefix}quota-gateways"]
                    self._gateways = await self._register(keys=keys, args=[self._id, _SEEN_SECONDS])
                await self._settle_pending()
            except _failures() as error:
                self._begin_outage(error)
            else:
                self._end_outage()
            await asyncio.sleep(_BEAT_SECONDS)

    async def _settle_pending(self) -> None:
        while names := list(self._pending)[:_SETTLED_TEAMS]:
            pipeline = self._redis.pipeline(transaction=False)
            for name in names:
                team, give_back = self._pending.pop(name)
                await self._take(**self._arguments(team, 0, 0, give_back), client=pipeline)  # only adds it
            async with asyncio.timeout(self._config.timeout_seconds):
                await pipeline.execute()

    def _begin_outage(self, error: Exception) -> None:
        if self._alone is not None:
            return
        self._pending.clear()
        self._alone, self._since = LocalQuotas(self._clock, share=1 / self._gateways), self._clock()
        _LOG.warning(
            "Redis does not count the quotas of teams (%s: %s); until it does, each of %d gateways grants its part",
            type(error).__name__,
            error,
            self._gateways,
        )

    def _end_outage(self) -> None:
        if self._alone is not None:
            self._alone = None
            _LOG.warning("Redis counts the quotas of teams again, after %.1f s", self._clock() - self._since)


def _failures() -> tuple[type[Exception], ...]:
    import redis

    return (redis.exceptions.RedisError, OSError, TimeoutError)
