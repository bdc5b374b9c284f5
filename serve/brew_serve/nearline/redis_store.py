"""The production nearline store: the `NearlineStore` of `store.py` in Redis.

Keys below a prefix:

    slates:<member_id>      hash: task -> newness, a line feed, and the slate as JSON
    rankings:<member_id>    hash: task -> newness, a line feed, and the ranking as JSON
    receipt:<job_id>        hash: attempts, state, error
    hold:<job_id>           exists while a consumer works on the job
    confirmed               the time of the last call of `confirm`

All but the last one expire. A hash of slates or rankings expires with its newest field, and readers ignore older fields
that have expired.

Lua scripts make the writes atomic. Redis must write an append-only file (`appendonly yes`). With the setting
`appendfsync everysec`, a crash of its machine loses the writes of the last second. A receipt is therefore used only
after `settle_seconds`: then it survives a crash, and so do all earlier writes. A replica that takes over may lack more
than that; `confirm` waits until the replicas have all earlier writes.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from brew_serve.nearline.store import (
    KEPT_SECONDS,
    RANKING_SECONDS,
    CandidateSlate,
    Outcome,
    Receipt,
    StoredRanking,
    oldest_newness,
)
from brew_serve.stores.redis_server import RedisErrors, connect
from brew_serve.stores.sqlite_file import Unavailable

__all__ = ["RedisNearlineStore"]

_REPLICA_MILLISECONDS = 1_000  # for replicas to have the latest writes; less than the time limit of a command

# Both scripts take the key of one hash. The first one stores a document unless one at least as new exists, and makes
# the hash expire not before the document; the newness strings have one width. The second one stores an outcome unless
# the job is done or dead.
_PUT_NEWEST = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old and string.sub(old, 1, #ARGV[2]) >= ARGV[2] then return 0 end
local left = redis.call('PTTL', KEYS[1])  -- negative without one
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. '\\n' .. ARGV[3])
if left < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1
"""
_SETTLE = """
local state = redis.call('HGET', KEYS[1], 'state')
if redis.call('EXISTS', KEYS[1]) == 0 or state == 'done' or state == 'dead' then return 0 end
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'error', ARGV[2])
return 1
"""


class RedisNearlineStore:
    """A `NearlineStore` on Redis.

    Args:
        url: Address of the server, such as redis://:password@host:6379/0.
        prefix: Prefix of every key.
        replicas: Number of replicas that must have a write before `confirm` returns.
        ranking_seconds: Lifetime of slates and rankings, from the request.
        clock: Returns seconds since 1970.
    """

    settle_seconds = 2.5  # appendfsync everysec can be late by another second

    def __init__(
        self,
        url: str,
        prefix: str = "brew360:",
        *,
        replicas: int = 0,
        ranking_seconds: float = RANKING_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis, self._errors = connect(url), RedisErrors()
        self._prefix, self._replicas = prefix, replicas
        self._ranking_seconds, self._clock = ranking_seconds, clock

    def put_slate(self, slate: CandidateSlate) -> bool:
        return self._put_newest("slates", slate, slate.newness)

    def slates(self, member_id: str) -> list[CandidateSlate]:
        with self._errors():
            stored = self._redis.hgetall(f"{self._prefix}slates:{member_id}")
        slates = [CandidateSlate(**_document(text)) for text in stored.values() if self._is_live(text)]
        return sorted(slates, key=lambda slate: slate.task)

    def put_ranking(self, ranking: StoredRanking) -> bool:
        return self._put_newest("rankings", ranking, ranking.newness)

    def ranking(self, task: str, member_id: str) -> StoredRanking | None:
        with self._errors():
            text = self._redis.hget(f"{self._prefix}rankings:{member_id}", task)
        return StoredRanking(**_document(text)) if text is not None and self._is_live(text) else None

    def begin(self, job_ids: Sequence[str], at: float) -> dict[str, Receipt]:
        with self._errors(), self._redis.pipeline(transaction=True) as transaction:
            for job_id in job_ids:
                transaction.hincrby(self._receipt(job_id), "attempts", 1)
                transaction.expire(self._receipt(job_id), KEPT_SECONDS)
                transaction.hgetall(self._receipt(job_id))
            answers = transaction.execute()
        return {job_id: _receipt(fields) for job_id, fields in zip(job_ids, answers[2::3], strict=True)}

    def settle(self, outcomes: Mapping[str, Outcome]) -> None:
        with self._errors(), self._redis.pipeline(transaction=True) as transaction:
            for job_id, outcome in outcomes.items():
                transaction.eval(_SETTLE, 1, self._receipt(job_id), outcome.state, outcome.error or "")
            transaction.execute()

    def receipts(self, job_ids: Sequence[str]) -> dict[str, Receipt]:
        with self._errors(), self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(self._receipt(job_id))
                pipe.exists(self._hold(job_id))
            answers = pipe.execute()
        found = zip(job_ids, answers[::2], answers[1::2], strict=True)
        return {job_id: _receipt(fields, held=bool(held)) for job_id, fields, held in found if fields}

    def reset(self, job_ids: Sequence[str]) -> None:
        with self._errors(), self._redis.pipeline(transaction=True) as transaction:
            for job_id in job_ids:
                transaction.eval(
                    "if redis.call('HGET', KEYS[1], 'state') == 'failed' then redis.call('HDEL', KEYS[1], 'state') end",
                    1,
                    self._receipt(job_id),
                )
            transaction.execute()

    def forget(self, job_ids: Sequence[str]) -> None:
        with self._errors():
            self._redis.delete(*map(self._receipt, job_ids), *map(self._hold, job_ids))

    def hold(self, job_ids: Sequence[str], seconds: float) -> None:
        with self._errors(), self._redis.pipeline(transaction=True) as transaction:
            for job_id in job_ids:
                transaction.set(self._hold(job_id), "", px=max(1, int(seconds * 1000)))
            transaction.execute()

    def confirm(self) -> None:
        """Wait until `replicas` replicas have all earlier writes of any client: replication has one order."""
        if not self._replicas:
            return
        with self._errors(), self._redis.pipeline(transaction=False) as pipe:
            pipe.set(f"{self._prefix}confirmed", int(self._clock()))  # WAIT waits for the connection's last write
            pipe.execute_command("WAIT", self._replicas, _REPLICA_MILLISECONDS)
            _, reached = pipe.execute()
        if reached < self._replicas:
            raise Unavailable(
                f"{reached} replicas of Redis have the latest writes, but redis_replicas is {self._replicas}. Jobs "
                f"stay open until they have them. If this persists, check the replicas."
            )

    def check(self) -> None:
        with self._errors():
            self._redis.ping()

    def prune(self, before: float) -> None:
        """Do nothing: all keys expire."""

    def close(self) -> None:
        self._redis.close()

    def _put_newest(self, kind: str, row: CandidateSlate | StoredRanking, newness: str) -> bool:
        key = f"{self._prefix}{kind}:{row.member_id}"
        left = int(newness.partition(".")[0]) // 1000 + int((self._ranking_seconds - self._clock()) * 1000)
        if left <= 0:  # it has expired
            return False
        with self._errors():
            return bool(self._redis.eval(_PUT_NEWEST, 1, key, row.task, newness, json.dumps(asdict(row)), left))

    def _is_live(self, text: bytes) -> bool:
        return text.decode() > oldest_newness(self._clock(), self._ranking_seconds)

    def _receipt(self, job_id: str) -> str:
        return f"{self._prefix}receipt:{job_id}"

    def _hold(self, job_id: str) -> str:
        return f"{self._prefix}hold:{job_id}"


def _document(text: bytes) -> dict[str, Any]:
    return json.loads(text.partition(b"\n")[2])


def _receipt(fields: dict[bytes, bytes], *, held: bool = False) -> Receipt:
    values = {name.decode(): value.decode() for name, value in fields.items()}
    state: Any = values.get("state")
    attempts = int(values.get("attempts", 0))
    return Receipt(attempts=attempts, state=state, error=values.get("error") or None, held=held)
