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
        request_id: of the request that asked.
        requested_at: microseconds since 1970, UTC.
        candidates: ids that the context holds, or {"id", "fields"}.
        instruction: what the member wants, in their own words.
        top_k: keep the best this many only.
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
        """Of fixed width; sorts by time, and two requests of one microsecond always the same way."""
        return f"{self.requested_at:020d}.{hashlib.sha256(self.request_id.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True)
class StoredRanking:
    """One result.

    Args:
        newness: the slate's, then the revision of the history that was read.
        version: of the model.
        computed_at: microseconds since 1970, UTC.
        events: how many nearline events the history held.
        event_ids: the newest of them.
        answer: "ranking", "usage" and "truncated" as `RankResponse` has them.
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
    """How work on a job ended: done, failed (and to be tried again), or dead (trying again cannot help)."""

    state: State
    error: str | None = None


class NearlineStore(Protocol):
    """Every method may be called from any thread, is atomic, and raises Unavailable where the store cannot be used."""

    settle_seconds: float  # after these, what was written survives a crash of the store's machine

    def put_slate(self, slate: CandidateSlate) -> bool:
        """Stores the slate, unless one as new or newer of its member and task is there; whether it is stored."""

    def slates(self, member_id: str) -> list[CandidateSlate]:
        """Return the slates of a member, sorted by task."""

    def put_ranking(self, ranking: StoredRanking) -> bool:
        """Stores the ranking, unless one as new or newer of its member and task is there; whether it is stored."""

    def ranking(self, task: str, member_id: str) -> StoredRanking | None:
        """The latest result."""

    def begin(self, job_ids: Sequence[str], at: float) -> dict[str, Receipt]:
        """Counts one attempt for each job, and returns their receipts; `at` is now, in seconds since 1970."""

    def settle(self, outcomes: Mapping[str, Outcome]) -> None:
        """Notes how the work on each job ended; nothing changes for a job that is done or dead."""

    def receipts(self, job_ids: Sequence[str]) -> dict[str, Receipt]:
        """Those that exist."""

    def reset(self, job_ids: Sequence[str]) -> None:
        """Forgets that the jobs failed, but not how often they were begun."""

    def forget(self, job_ids: Sequence[str]) -> None:
        """Removes receipts."""

    def prune(self, before: float) -> None:
        """Removes receipts of work begun before that time, in seconds since 1970."""

    def close(self) -> None:
        """Ends the connection."""


class SqliteNearlineStore:
    """A `NearlineStore` in a SQLite file; it is made where it is missing.

    Raises:
        UserError: the file is no SQLite database.
    """

    settle_seconds = 0.0

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, _SCHEMA)

    def put_slate(self, slate: CandidateSlate) -> bool:
        return self._newest("slates", slate, slate.newness)

    def slates(self, member_id: str) -> list[CandidateSlate]:
        rows = self._file.rows("SELECT document FROM slates WHERE member_id = ? ORDER BY task", (member_id,))
        return [CandidateSlate(**json.loads(document)) for (document,) in rows]

    def put_ranking(self, ranking: StoredRanking) -> bool:
        return self._newest("rankings", ranking, ranking.newness)

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

    def _newest(self, table: Literal["slates", "rankings"], row: CandidateSlate | StoredRanking, newness: str) -> bool:
        with self._file.transaction() as db:
            return bool(
                db.execute(
                    f"INSERT INTO {table} VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "  # noqa: S608 - one of two names
                    "SET newness = excluded.newness, document = excluded.document WHERE excluded.newness > newness",
                    (row.member_id, row.task, newness, json.dumps(asdict(row))),
                ).rowcount
            )
