"""Data shared by nearline ingress and consumers: slates, rankings and receipts.

    slate      candidates to rank for a member on a task; the newest request is kept and ranked again after each event
    ranking    the latest result; an older result never replaces a newer one
    receipt    attempts at a job and its outcome

`NearlineStore` is the protocol, `SqliteNearlineStore` the embedded default. `redis_store.py` has the production
one. The same contract tests run on both.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from brew_serve.stores.sqlite_file import SqliteFile

__all__ = [
    "KEPT_SECONDS",
    "CandidateSlate",
    "NearlineStore",
    "Outcome",
    "Receipt",
    "SqliteNearlineStore",
    "StoredRanking",
]

KEPT_SECONDS = 86_400  # lifetime of a receipt that is not collected because its job was sent twice

_SCHEMA = """
CREATE TABLE IF NOT EXISTS slates (
    member_id TEXT, task TEXT, newness TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (member_id, task)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rankings (
    member_id TEXT, task TEXT, newness TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (member_id, task)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS receipts (
    job_id TEXT PRIMARY KEY, attempts INTEGER NOT NULL, state TEXT, error TEXT, begun_at INTEGER NOT NULL
) WITHOUT ROWID;
"""

State = Literal["failed", "done", "dead"]


@dataclass(frozen=True, kw_only=True)
class CandidateSlate:
    """Candidates to rank for a member on a task.

    Args:
        task: The task.
        member_id: The member.
        request_id: Id of the ranking request.
        requested_at: Time of the request in microseconds since 1970, UTC.
        candidates: Ids of entities in the context, or {"id", "fields"}.
        instruction: The member's instruction, in their own words.
        top_k: Number of candidates to keep, the best first; None for all.
    """

    task: str
    member_id: str
    request_id: str
    requested_at: int
    candidates: list[Any]
    instruction: str = ""
    top_k: int | None = None

    @property
    def newness(self) -> str:
        """A string of fixed width that sorts by time; requests of the same microsecond sort by a hash of their ids."""
        return f"{self.requested_at:020d}.{hashlib.sha256(self.request_id.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True)
class StoredRanking:
    """The latest ranking of a member on a task.

    Args:
        task: The task.
        member_id: The member.
        request_id: Id of the ranking request.
        newness: Newness of the slate, followed by the revision of the history.
        version: Model version.
        computed_at: Microseconds since 1970, UTC.
        events: Number of nearline events in the history.
        event_ids: Ids of the newest of these events.
        answer: The fields "ranking", "usage" and "truncated" of `RankResponse`.
    """

    task: str
    member_id: str
    request_id: str
    newness: str
    version: int
    computed_at: int
    events: int
    event_ids: list[str]
    answer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Attempts and outcome of a job; `state` is None until an attempt ends after the job was last sent."""

    attempts: int
    state: State | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of an attempt: done, failed (it will be retried), or dead (a retry cannot succeed)."""

    state: State
    error: str | None = None


class NearlineStore(Protocol):
    """Slates, rankings and receipts. Methods are thread-safe and atomic, and raise Unavailable if the store is down."""

    settle_seconds: float  # time after which a write survives a crash of the store's machine

    def put_slate(self, slate: CandidateSlate) -> bool:
        """Store the slate, unless one at least as new exists of its member and task. Returns whether it is stored."""

    def slates(self, member_id: str) -> list[CandidateSlate]:
        """Return the slates of a member, sorted by task."""

    def put_ranking(self, ranking: StoredRanking) -> bool:
        """Store the ranking, unless one at least as new exists of its member and task. Returns whether it is stored."""

    def ranking(self, task: str, member_id: str) -> StoredRanking | None:
        """Return the latest ranking; None if there is none."""

    def begin(self, job_ids: Sequence[str], at: float) -> dict[str, Receipt]:
        """Count one attempt for each job and return the receipts; `at` is the time in seconds since 1970."""

    def settle(self, outcomes: Mapping[str, Outcome]) -> None:
        """Record the outcome of each job; jobs that are done or dead do not change."""

    def receipts(self, job_ids: Sequence[str]) -> dict[str, Receipt]:
        """Return the existing receipts, by job id."""

    def reset(self, job_ids: Sequence[str]) -> None:
        """Clear the state of failed jobs, and keep their numbers of attempts."""

    def forget(self, job_ids: Sequence[str]) -> None:
        """Remove receipts."""

    def prune(self, before: float) -> None:
        """Remove the receipts of attempts that began before a time in seconds since 1970."""

    def close(self) -> None:
        """Close the connection."""


class SqliteNearlineStore:
    """A `NearlineStore` in a SQLite file, which is created if missing.

    Args:
        path: Path of the file.

    Raises:
        UserError: The file is not a SQLite database.
    """

    settle_seconds = 0.0

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, _SCHEMA)

    def put_slate(self, slate: CandidateSlate) -> bool:
        return self._put_newest("slates", slate, slate.newness)

    def slates(self, member_id: str) -> list[CandidateSlate]:
        rows = self._file.rows("SELECT document FROM slates WHERE member_id = ? ORDER BY task", (member_id,))
        return [CandidateSlate(**json.loads(document)) for (document,) in rows]

    def put_ranking(self, ranking: StoredRanking) -> bool:
        return self._put_newest("rankings", ranking, ranking.newness)

    def ranking(self, task: str, member_id: str) -> StoredRanking | None:
        rows = self._file.rows("SELECT document FROM rankings WHERE member_id = ? AND task = ?", (member_id, task))
        return StoredRanking(**json.loads(rows[0][0])) if rows else None

    def begin(self, job_ids: Sequence[str], at: float) -> dict[str, Receipt]:
        with self._file.transaction() as db:
            db.executemany(
                "INSERT INTO receipts VALUES (?, 1, NULL, NULL, ?) "
                "ON CONFLICT DO UPDATE SET attempts = attempts + 1, begun_at = excluded.begun_at",
                [(job_id, int(at)) for job_id in job_ids],
            )
            return self.receipts(job_ids)

    def settle(self, outcomes: Mapping[str, Outcome]) -> None:
        with self._file.transaction() as db:
            db.executemany(
                "UPDATE receipts SET state = ?, error = ? WHERE job_id = ? AND coalesce(state, 'failed') = 'failed'",
                [(outcome.state, outcome.error, job_id) for job_id, outcome in outcomes.items()],
            )

    def receipts(self, job_ids: Sequence[str]) -> dict[str, Receipt]:
        rows = self._file.rows(
            "SELECT job_id, attempts, state, error FROM receipts WHERE job_id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(job_ids)),),
        )
        return {job_id: Receipt(attempts=n, state=state, error=error) for job_id, n, state, error in rows}

    def reset(self, job_ids: Sequence[str]) -> None:
        with self._file.transaction() as db:
            db.executemany(
                "UPDATE receipts SET state = NULL WHERE job_id = ? AND state = 'failed'", [(id_,) for id_ in job_ids]
            )

    def forget(self, job_ids: Sequence[str]) -> None:
        with self._file.transaction() as db:
            db.executemany("DELETE FROM receipts WHERE job_id = ?", [(job_id,) for job_id in job_ids])

    def prune(self, before: float) -> None:
        with self._file.transaction() as db:
            db.execute("DELETE FROM receipts WHERE begun_at < ?", (int(before),))

    def close(self) -> None:
        self._file.close()

    def _put_newest(
        self, table: Literal["slates", "rankings"], row: CandidateSlate | StoredRanking, newness: str
    ) -> bool:
        with self._file.transaction() as db:
            return bool(
                db.execute(
                    f"INSERT INTO {table} VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "  # noqa: S608 - one of two names
                    "SET newness = excluded.newness, document = excluded.document WHERE excluded.newness > newness",
                    (row.member_id, row.task, newness, json.dumps(asdict(row))),
                ).rowcount
            )
