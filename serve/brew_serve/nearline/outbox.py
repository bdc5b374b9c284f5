"""Durable record of accepted nearline jobs and their states: a SQLite file, synced before a request is acknowledged.

    accepted ──claim──> enqueued ──settle──> done
       ^                  │   │
       └──retry, release──┘   └──bury──> dead ──replay──> accepted

A job without an outcome after `lost_after` seconds counts as lost and is claimed again: a queue can lose, repeat or
reorder messages.
"""

# ruff: noqa: S608 - the SQL statements are formatted with constants of this file only

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from brew_platform.errors import UserError
from brew_serve.errors import Overloaded
from brew_serve.stores.sqlite_file import SqliteFile

__all__ = ["Accepted", "Backlog", "DeadLetter", "Job", "Outbox", "Waiting"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    job_id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    member_id TEXT NOT NULL,
    task TEXT,                    -- of a rank job
    payload TEXT NOT NULL,        -- JSON, keys sorted
    accepted_at INTEGER NOT NULL, -- microseconds since 1970, UTC; no two jobs have the same
    state TEXT NOT NULL CHECK (state IN ('accepted', 'enqueued', 'done', 'dead')),
    due_at REAL NOT NULL,         -- seconds since 1970; accepted: not sent before; enqueued: lost after
    sends INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    settled_at REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (state, due_at);
CREATE INDEX IF NOT EXISTS jobs_of_member ON jobs (member_id, accepted_at);
CREATE INDEX IF NOT EXISTS jobs_accepted ON jobs (accepted_at);
"""
_JOB = "job_id, kind, member_id, task, payload, accepted_at, sends"
_OPEN = "state IN ('accepted', 'enqueued')"
_MAX_BACKOFF = 16  # multiple of the first waiting time


@dataclass(frozen=True, kw_only=True)
class Job:
    """An event or a ranking request of one member.

    Args:
        job_id: `<kind>:<id>` with the caller's id of the event or request. Equal ids are one job.
        kind: The kind of the job.
        member_id: The member.
        task: Task of a ranking request; None for an event.
        payload: JSON values for the consumer.
        accepted_at: Microseconds since 1970, UTC; set by `accept`.
        sends: Number of earlier sends.
    """

    job_id: str
    kind: Literal["event", "rank"]
    member_id: str
    task: str | None = None
    payload: Mapping[str, Any]
    accepted_at: int = 0
    sends: int = 0


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """Numbers of new jobs and of known jobs in a batch."""

    new: int
    known: int


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A dead job with its last error, the number of attempts, and the time of death in seconds since 1970."""

    job: Job
    error: str
    attempts: int
    died_at: float


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """An open job, and the time of its acceptance in microseconds since 1970."""

    job_id: str
    accepted_at: int


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """The jobs that are not done.

    Args:
        jobs: Their number by state: accepted, enqueued, dead.
        oldest: When the oldest open job was accepted, in microseconds since 1970; None if none is open.
    """

    jobs: Mapping[str, int]
    oldest: int | None


class Outbox:
    """The jobs of one node. Threads and processes of that node can share the file.

    Args:
        path: Path of the file, which is created if missing. It must be on a local disk, because SQLite's locks do not
            work on network file systems.
        most_open: Maximum number of open jobs. Further jobs are refused, which bounds the size of the file.
    """

    def __init__(self, path: Path, *, most_open: int = 100_000) -> None:
        self._file = SqliteFile(path, _SCHEMA)
        self._most_open = most_open

    def accept(self, jobs: Sequence[Job], now: float) -> Accepted:
        """Store all jobs or none. The jobs are durable when this returns.

        Args:
            jobs: The jobs; known ones change nothing.
            now: Seconds since 1970.

        Raises:
            UserError: A job with the same id and other content exists.
            Overloaded: Too many jobs are open.
            Unavailable: The disk failed or is full.
        """
        known = 0
        with self._file.transaction() as db:
            last = db.execute("SELECT max(accepted_at) FROM jobs").fetchone()[0] or 0
            for job in jobs:
                payload = json.dumps(job.payload, sort_keys=True)
                old = db.execute(
                    "SELECT kind, member_id, task, payload FROM jobs WHERE job_id = ?", (job.job_id,)
                ).fetchone()
                if old is not None:
                    if old != (job.kind, job.member_id, job.task, payload):
                        raise UserError(
                            f"{job.kind} id {job.job_id.partition(':')[2]!r} was used before with other content, so "
                            f"nothing of this request was stored. Use a unique id for every {job.kind}."
                        )
                    known += 1
                    continue
                last = max(last + 1, int(now * 1e6))
                db.execute(
                    "INSERT INTO jobs (job_id, kind, member_id, task, payload, accepted_at, state, due_at) "
                    "VALUES (?, ?, ?, ?, ?, ?, 'accepted', ?)",
                    (job.job_id, job.kind, job.member_id, job.task, payload, last, now),
                )
            if known < len(jobs) and (open_jobs := _count_open(db)) > self._most_open:
                raise Overloaded(
                    f"{open_jobs} nearline jobs are open; the limit of this service is {self._most_open}. Try later.",
                    30.0,
                )
        return Accepted(new=len(jobs) - known, known=known)

    def claim(self, *, window: int, now: float, lost_after: float) -> list[Job]:
        """Mark jobs as enqueued and return them. The caller must send them at once.

        Args:
            window: Maximum number of enqueued jobs; the others wait in the outbox.
            now: Seconds since 1970.
            lost_after: Seconds without an outcome after which a job counts as lost; doubled at each send.

        Returns:
            Lost jobs, then accepted jobs, the oldest first.
        """
        with self._file.transaction() as db:
            in_flight = db.execute(
                "SELECT count(*) FROM jobs WHERE state = 'enqueued' AND due_at > ?", (now,)
            ).fetchone()[0]
            jobs: list[Job] = []
            for state in ("enqueued", "accepted"):  # one query per state, so that the index provides the order
                rows = db.execute(
                    f"SELECT {_JOB} FROM jobs WHERE state = ? AND due_at <= ? ORDER BY due_at LIMIT ?",
                    (state, now, max(0, window - in_flight - len(jobs))),
                )
                jobs += map(_job, rows.fetchall())
            db.executemany(
                "UPDATE jobs SET state = 'enqueued', sends = sends + 1, due_at = ? WHERE job_id = ?",
                [(now + lost_after * min(2**job.sends, _MAX_BACKOFF), job.job_id) for job in jobs],
            )
        return jobs

    def release(self, job_ids: Sequence[str], *, due_at: float) -> None:
        """Undo the claim of jobs that could not be sent. They wait until `due_at`, in seconds since 1970."""
        self._each(
            "UPDATE jobs SET state = 'accepted', sends = sends - 1, due_at = ? WHERE job_id = ? AND state = 'enqueued'",
            [(due_at, job_id) for job_id in job_ids],
        )

    def enqueued(self) -> list[str]:
        """Return the ids of the jobs that were sent and have no outcome yet."""
        return [job_id for (job_id,) in self._file.rows("SELECT job_id FROM jobs WHERE state = 'enqueued'")]

    def extend(self, job_ids: Sequence[str], *, before: float, until: float) -> None:
        """Count sent jobs as lost later, because a consumer works on them.

        Args:
            job_ids: The jobs.
            before: Only jobs that would count as lost before this time, in seconds since 1970, so that few calls write.
            until: When they count as lost, in seconds since 1970.
        """
        self._each(
            "UPDATE jobs SET due_at = ? WHERE job_id = ? AND state = 'enqueued' AND due_at < ?",
            [(until, job_id, before) for job_id in job_ids],
        )

    def settle(self, job_ids: Sequence[str], now: float) -> None:
        """Mark jobs as done; `now` is in seconds since 1970."""
        self._each(
            f"UPDATE jobs SET state = 'done', error = NULL, settled_at = ? WHERE job_id = ? AND {_OPEN}",
            [(now, job_id) for job_id in job_ids],
        )

    def retry(self, errors: Mapping[str, str], *, due_at: float) -> None:
        """Mark jobs as failed, to be sent again.

        Args:
            errors: Error by job id.
            due_at: Seconds since 1970 before which they are not sent.
        """
        self._each(
            "UPDATE jobs SET state = 'accepted', due_at = ?, error = ? WHERE job_id = ? AND state = 'enqueued'",
            [(due_at, error, job_id) for job_id, error in errors.items()],
        )

    def bury(self, errors: Mapping[str, tuple[str, int]], now: float) -> None:
        """Mark jobs as dead.

        Args:
            errors: Error and number of attempts, by job id.
            now: Seconds since 1970.
        """
        self._each(
            f"UPDATE jobs SET state = 'dead', error = ?, attempts = ?, settled_at = ? WHERE job_id = ? AND {_OPEN}",
            [(error, attempts, now, job_id) for job_id, (error, attempts) in errors.items()],
        )

    def dead_letters(self, *, member_id: str | None = None, limit: int = 1_000) -> list[DeadLetter]:
        """Return the dead jobs, the latest first.

        Args:
            member_id: Only the jobs of this member; None for all.
            limit: Maximum number of jobs.
        """
        rows = self._file.rows(
            f"SELECT {_JOB}, error, attempts, settled_at FROM jobs WHERE state = 'dead' AND coalesce(?, member_id) = "
            f"member_id ORDER BY settled_at DESC, accepted_at DESC LIMIT ?",
            (member_id, limit),
        )
        return [
            DeadLetter(job=_job(row), error=error, attempts=attempts, died_at=died_at)
            for *row, error, attempts, died_at in rows
        ]

    def replay(self, job_ids: Sequence[str] | None = None) -> int:
        """Send dead jobs again; None sends all of them. Returns their number."""
        update = (
            "UPDATE jobs SET state = 'accepted', due_at = 0, sends = 0, attempts = 0, error = NULL, settled_at = NULL "
            "WHERE state = 'dead'"
        )
        with self._file.transaction() as db:
            if job_ids is None:
                return db.execute(update).rowcount
            return db.executemany(f"{update} AND job_id = ?", [(job_id,) for job_id in job_ids]).rowcount

    def replay_done(self, *, after: int) -> int:
        """Send done jobs again that are not in the tables, after the member context was rebuilt from tables.

        Args:
            after: Time up to which the tables are complete, in microseconds since 1970. Events with a later timestamp
                and requests that were accepted later are sent again.

        Returns:
            Their number.
        """
        with self._file.transaction() as db:
            return db.execute(
                "UPDATE jobs SET state = 'accepted', due_at = 0, sends = 0, settled_at = NULL WHERE state = 'done' AND "
                "coalesce(json_extract(payload, '$.timestamp'), accepted_at) > ?",
                (after,),
            ).rowcount

    def waiting(self, member_id: str, task: str) -> list[Waiting]:
        """Return the open events of the member and the open requests for this ranking, the oldest first."""
        rows = self._file.rows(
            f"SELECT job_id, accepted_at FROM jobs WHERE member_id = ? AND coalesce(task, ?) = ? AND {_OPEN} "
            "ORDER BY accepted_at",
            (member_id, task, task),
        )
        return [Waiting(job_id=job_id, accepted_at=accepted_at) for job_id, accepted_at in rows]

    def counts(self) -> dict[str, int]:
        """Return the number of jobs by state."""
        return dict(self._file.rows("SELECT state, count(*) FROM jobs GROUP BY state"))

    def backlog(self) -> Backlog:
        """Return what is not done. Jobs that are done are not read, however many there are.

        Raises:
            Unavailable: The file cannot be read now.
        """
        jobs = {
            state: int(self._file.rows("SELECT count(*) FROM jobs WHERE state = ?", (state,))[0][0])
            for state in ("accepted", "enqueued", "dead")
        }
        oldest = self._file.rows(f"SELECT min(accepted_at) FROM jobs WHERE {_OPEN}")[0][0]
        return Backlog(jobs=jobs, oldest=oldest)

    def prune(self, before: float, *, dead_before: float = 0.0) -> int:
        """Remove jobs that were done before `before`, and jobs that died before `dead_before`. Returns their number.

        Args:
            before: Seconds since 1970.
            dead_before: Seconds since 1970.
        """
        with self._file.transaction() as db:
            return db.executemany(
                "DELETE FROM jobs WHERE state = ? AND settled_at < ?", [("done", before), ("dead", dead_before)]
            ).rowcount

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @staticmethod
    def depth(path: Path) -> int:
        """Return the number of open jobs in the outbox at `path`, which is opened read-only; 0 if it does not exist.

        Raises:
            Unavailable: The file cannot be read now.
        """
        if not path.is_file():
            return 0
        file = SqliteFile(path, writable=False)
        try:
            return int(file.rows(f"SELECT count(*) FROM jobs WHERE {_OPEN}")[0][0])
        finally:
            file.close()

    def _each(self, sql: str, rows: Sequence[tuple]) -> None:
        if rows:
            with self._file.transaction() as db:
                db.executemany(sql, rows)


def _count_open(db: sqlite3.Connection) -> int:
    return int(db.execute(f"SELECT count(*) FROM jobs WHERE {_OPEN}").fetchone()[0])


def _job(row: Sequence[Any]) -> Job:
    job_id, kind, member_id, task, payload, accepted_at, sends = row
    return Job(
        job_id=job_id,
        kind=kind,
        member_id=member_id,
        task=task,
        payload=json.loads(payload),
        accepted_at=accepted_at,
        sends=sends,
    )
