"""The production nearline store: the `NearlineStore` of `store.py` in Redis.

Keys below a prefix:

    slates:<member_id>      hash: task -> newness, a line feed, and the slate as JSON
    rankings:<member_id>    hash: task -> newness, a line feed, and the ranking as JSON
    receipt:<job_id>        hash: attempts, state, error; expires by itself

Lua scripts make the writes atomic. Redis must write an append-only file (`appendonly yes`). With the setting
`appendfsync everysec`, a crash of its machine loses the writes of the last second. A receipt is therefore used only
after `settle_seconds`: then it survives a crash, and so do all earlier writes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from brew_serve.nearline.store import KEPT_SECONDS, CandidateSlate, Outcome, Receipt, StoredRanking
from brew_serve.stores.redis_server import connect, redis_errors

__all__ = ["RedisNearlineStore"]

# Both scripts take the key of one hash. The first one stores a document unless one at least as new exists; the newness
# strings have one width. The second one stores an outcome unless the job is done or dead.
_PUT_NEWEST = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old and string.sub(old, 1, #ARGV[2]) >= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. '\\n' .. ARGV[3])
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
    """

    settle_seconds = 2.5  # appendfsync everysec can be late by another second

    def __init__(self, url: str, prefix: str = "brew360:") -> None:
        self._redis, self._prefix = connect(url), prefix

    def put_slate(self, slate: CandidateSlate) -> bool:
        return self._put_newest("slates", slate, slate.newness)

    def slates(self, member_id: str) -> list[CandidateSlate]:
        with redis_errors():
            stored = self._redis.hgetall(f"{self._prefix}slates:{member_id}")
        return sorted((CandidateSlate(**_document(text)) for text in stored.values()), key=lambda slate: slate.task)

    def put_ranking(self, ranking: StoredRanking) -> bool:
        return self._put_newest("rankings", ranking, ranking.newness)

    def ranking(self, task: str, member_id: str) -> StoredRanking | None:
        with redis_errors():
            text = self._redis.hget(f"{self._prefix}rankings:{member_id}", task)
        return None if text is None else StoredRanking(**_document(text))

    def begin(self, job_ids: Sequence[str], at: float) -> dict[str, Receipt]:
        with redis_errors(), self._redis.pipeline(transaction=True) as transaction:
            for job_id in job_ids:
                transaction.hincrby(self._receipt(job_id), "attempts", 1)
                transaction.expire(self._receipt(job_id), KEPT_SECONDS)
                transaction.hgetall(self._receipt(job_id))
            answers = transaction.execute()
        return {job_id: _receipt(fields) for job_id, fields in zip(job_ids, answers[2::3], strict=True)}

    def settle(self, outcomes: Mapping[str, Outcome]) -> None:
        with redis_errors(), self._redis.pipeline(transaction=True) as transaction:
            for job_id, outcome in outcomes.items():
                transaction.eval(_SETTLE, 1, self._receipt(job_id), outcome.state, outcome.error or "")
            transaction.execute()

    def receipts(self, job_ids: Sequence[str]) -> dict[str, Receipt]:
        with redis_errors(), self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(self._receipt(job_id))
            answers = pipe.execute()
        return {job_id: _receipt(fields) for job_id, fields in zip(job_ids, answers, strict=True) if fields}

    def reset(self, job_ids: Sequence[str]) -> None:
        with redis_errors(), self._redis.pipeline(transaction=True) as transaction:
            for job_id in job_ids:
                transaction.eval(
                    "if redis.call('HGET', KEYS[1], 'state') == 'failed' then redis.call('HDEL', KEYS[1], 'state') end",
                    1,
                    self._receipt(job_id),
                )
            transaction.execute()

    def forget(self, job_ids: Sequence[str]) -> None:
        with redis_errors():
            self._redis.delete(*map(self._receipt, job_ids))

    def prune(self, before: float) -> None:
        """Do nothing: receipts expire."""

    def close(self) -> None:
        self._redis.close()

    def _put_newest(self, kind: str, row: CandidateSlate | StoredRanking, newness: str) -> bool:
        key = f"{self._prefix}{kind}:{row.member_id}"
        with redis_errors():
            return bool(self._redis.eval(_PUT_NEWEST, 1, key, row.task, newness, json.dumps(asdict(row))))

    def _receipt(self, job_id: str) -> str:
        return f"{self._prefix}receipt:{job_id}"


def _document(text: bytes) -> dict[str, Any]:
    return json.loads(text.partition(b"\n")[2])


def _receipt(fields: dict[bytes, bytes]) -> Receipt:
    values = {name.decode(): value.decode() for name, value in fields.items()}
    state: Any = values.get("state")
    return Receipt(attempts=int(values.get("attempts", 0)), state=state, error=values.get("error") or None)
