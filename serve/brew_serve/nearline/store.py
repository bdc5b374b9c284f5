"""Data shared by nearline ingress and consumers: slates, rankings and receipts.

    slate      candidates to rank for a member on a task; the newest request is kept and ranked again after each event
    ranking    the latest result; an older result never replaces a newer one
    receipt    attempts at a job and its outcome
    hold       a consumer works on a job now, so it is not sent again; expires unless the consumer renews it

Slates and rankings expire `ranking_seconds` after their request.

`NearlineStore` is the protocol, `SqliteNearlineStore` the embedded default. `redis_store.py` has the production
one. The same contract tests run on both.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from brew_serve.stores.sqlite_file import SqliteFile

__all__ = [
    "KEPT_SECONDS",
    "RANKING_SECONDS",
    "CandidateSlate",
    "NearlineStore",
    "Outcome",
    "Receipt",
    "SqliteNearlineStore",
    "StoredRanking",
    "oldest_newness",
]

RANKING_SECONDS = 30 * 86_400.0  # default lifetime of slates and rankings, from the request
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
CREATE TABLE IF NOT EXISTS holds (job_id TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS slates_by_age ON slates (newness);
CREATE INDEX IF NOT EXISTS rankings_by_age ON rankings (newness);
"""
_IDS = 500  # per SELECT; SQLite limits the number of placeholders

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
        calibrated: Whether to keep calibrated probabilities.
    """

    task: str
    member_id: str
    request_id: str
    requested_at: int
    candidates: list[Any]
    instruction: str = ""
    top_k: int | None = None
    calibrated: bool = False

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
        answer: The fields "ranking", "calibrated", "usage" and "truncated" of `RankResponse`.
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
    """Attempts and outcome of a job.

    Args:
        attempts: Number of attempts.
        state: None until an attempt ends after the job was last sent.
        error: Last error.
        held: Whether a consumer works on the job now.
    """

    attempts: int
    state: State | None = None
    error: str | None = None
    held: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of an attempt: done, failed (it will be retried), or dead (a retry cannot succeed)."""

    state: State
    error: str | None = None


def oldest_newness(now: float, ranking_seconds: float) -> str:
    """Return the newness that is smaller than that of every slate and ranking that has not expired."""
    return f"{int((now - ranking_seconds) * 1e6):020d}"


class NearlineStore(Protocol):
    """Slates, rankings and receipts. Methods are thread-safe and atomic, and raise Unavailable if the store is down."""

    settle_seconds: float  # time after which a write survives a crash of the store's machine

    def put_slate(self, slate: CandidateSlate) -> bool:
        """Store the slate, unless one at least as new exists of its member and task. Returns whether it is stored."""

    def slates(self, member_id: str) -> list[CandidateSlate]:
        """Return the slates of a member that have not expired, sorted by task."""

    def put_ranking(self, ranking: StoredRanking) -> bool:
        """Store the ranking, unless one at least as new exists of its member and task. Returns whether it is stored."""

    def ranking(self, task: str, member_id: str) -> StoredRanking | None:
        """Return the latest ranking; None if there is none, or if it has expired."""

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

    def hold(self, job_ids: Sequence[str], seconds: float) -> None:
        """Mark the jobs as being worked on for the next `seconds`."""

    def confirm(self) -> None:
        """Return when all earlier writes would survive the loss of the store's machine, as far as it is configured.

        Raises:
            Unavailable: They would not.
        """

    def check(self) -> None:
        """Check that the store answers."""

    def prune(self, before: float) -> None:
        """Remove expired data, and the receipts of attempts that began before a time in seconds since 1970."""

    def close(self) -> None:
        """Close the connection."""


class SqliteNearlineStore:
    """A `NearlineStore` in a SQLite file, which is created if missing.

    Args:
        path: Path of the file.
        ranking_seconds: Lifetime of slates and rankings, from the request.
        clock: Returns seconds since 1970.

    Raises:
        UserError: The file is not a SQLite database.
    """

    settle_seconds = 0.0

    def __init__(
        self, path: Path, *, ranking_seconds: float = RANKING_SECONDS, clock: Callable[[], float] = time.time
    ) -> None:
        self._file = SqliteFile(path, _SCHEMA)
        self._ranking_seconds, self._clock = ranking_seconds, clock

    def put_slate(self, slate: CandidateSlate) -> bool:
        return self._put_newest("slates", slate, slate.newness)

    def slates(self, member_id: str) -> list[CandidateSlate]:
        rows = self._file.rows(
            "SELECT document FROM slates WHERE member_id = ? AND newness > ? ORDER BY task", (member_id, self._oldest())
        )
        return [CandidateSlate(**json.loads(document)) for (document,) in rows]

    def put_ranking(self, ranking: StoredRanking) -> bool:
        return self._put_newest("rankings", ranking, ranking.newness)

    def ranking(self, task: str, member_id: str) -> StoredRanking | None:
        rows = self._file.rows(
            "SELECT document FROM rankings WHERE member_id = ? AND task = ? AND newness > ?",
            (member_id, task, self._oldest()),
        )
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
        found: dict[str, Receipt] = {}
        for start in range(0, len(job_ids), _IDS):
            ids = job_ids[start : start + _IDS]
            marks = ", ".join("?" * len(ids))  # json_each would cut an id at a NUL character
            rows = self._file.rows(
                "SELECT job_id, attempts, state, error, coalesce(until > ?, 0) FROM receipts "  # noqa: S608 - marks
                f"LEFT JOIN holds USING (job_id) WHERE job_id IN ({marks})",
                (self._clock(), *ids),
            )
            for id_, attempts, state, error, held in rows:
                found[id_] = Receipt(attempts=attempts, state=state, error=error, held=bool(held))
        return found

    def reset(self, job_ids: Sequence[str]) -> None:
        with self._file.transaction() as db:
            db.executemany(
                "UPDATE receipts SET state = NULL WHERE job_id = ? AND state = 'failed'", [(id_,) for id_ in job_ids]
            )

    def forget(self, job_ids: Sequence[str]) -> None:
        with self._file.transaction() as db:
            for table in ("receipts", "holds"):
                db.executemany(f"DELETE FROM {table} WHERE job_id = ?", [(job_id,) for job_id in job_ids])  # noqa: S608

    def hold(self, job_ids: Sequence[str], seconds: float) -> None:
        until = self._clock() + seconds
        with self._file.transaction() as db:
            db.executemany("INSERT OR REPLACE INTO holds VALUES (?, ?)", [(job_id, until) for job_id in job_ids])

    def confirm(self) -> None:
        """Do nothing: a transaction is on the disk when it ends."""

    def check(self) -> None:
        """Do nothing: a file either answers or raises."""

    def prune(self, before: float) -> None:
        with self._file.transaction() as db:
            db.execute("DELETE FROM receipts WHERE begun_at < ?", (int(before),))
            db.execute("DELETE FROM holds WHERE until < ?", (before,))
            for table in ("slates", "rankings"):
                db.execute(f"DELETE FROM {table} WHERE newness < ?", (self._oldest(),))  # noqa: S608

    def close(self) -> None:
        self._file.close()

    def _oldest(self) -> str:
        return oldest_newness(self._clock(), self._ranking_seconds)

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
