"""Durable record of accepted nearline jobs and their states: a SQLite file, synced before a request is acknowledged.

    accepted ──claim──> enqueued ──settle──> done
       ^                  │   │
       └──retry, release──┘   └──bury──> dead ──replay──> accepted

A job that has no outcome after `lost_after` counts as lost and is claimed again: a queue may lose, repeat or reorder
messages.
"""

# ruff: noqa: S608 - what is put into the statements are constants of this file

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from brew_platform.errors import UserError
from brew_serve.errors import Overloaded
from brew_serve.stores.sqlite_file import SqliteFile

__all__ = ["Accepted", "DeadLetter", "Job", "Outbox", "Waiting"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    job_id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    member_id TEXT NOT NULL,
    task TEXT,                    -- of a rank job
    payload TEXT NOT NULL,        -- JSON, keys sorted
    accepted_at INTEGER NOT NULL, -- microseconds since 1970, UTC; no two jobs have the same
    state TEXT NOT NULL CHECK (state IN ('accepted', 'enqueued', 'done', 'dead')),
    due_at REAL NOT NULL,         -- seconds since 1970: accepted: not sent before; enqueued: lost after
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
_MOST_BACKOFF = 16  # times the first wait


@dataclass(frozen=True, kw_only=True)
class Job:
    """Something to do for one member.

    Args:
        job_id: the caller's id of the event or of the request, behind its kind: equal ids are one job.
        task: of a rank job; None for an event.
        payload: JSON values; what the work needs.
        accepted_at: microseconds since 1970, UTC; set by `accept`.
        sends: how often it was sent before.
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
    """How many jobs of a batch were new, and how many were known already."""

    new: int
    known: int


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A job that was given up: what it was, why, how often it was tried, and when (seconds since 1970)."""

    job: Job
    error: str
    attempts: int
    died_at: float


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A job that is not done: its id, and when it was accepted (microseconds since 1970)."""

    job_id: str
    accepted_at: int


class Outbox:
    """The jobs of one node; threads and processes of that node may share the file.

    Args:
        path: of the file, on a local disk (SQLite's locks do not hold on network file systems); made if missing.
        most_open: jobs that may be open at a time; more are refused, so that the disk cannot fill up unnoticed.
    """

    def __init__(self, path: Path, *, most_open: int = 100_000) -> None:
        self._file = SqliteFile(path, _SCHEMA)
        self._most_open = most_open

    def accept(self, jobs: Sequence[Job], now: float) -> Accepted:
        """Takes all of `jobs` or none; when it returns, they are on the disk.

        Raises:
            UserError: a job's id is known with other contents.
            Overloaded: too many jobs are open.
            Unavailable: the disk failed or is full.
        """
        known = 0
        with self._file.transaction() as db:
            last = db.execute("SELECT max(accepted_at) FROM jobs").fetchone()[0] or 0
            for job in jobs:
                payload = json.dumps(job.payload, sort_keys=True)
                old = db.execute("SELECT kind, member_id, payload FROM jobs WHERE job_id = ?", (job.job_id,)).fetchone()
                if old is not None:
                    if old != (job.kind, job.member_id, payload):
                        raise UserError(
                            f"{job.kind} id {job.job_id.partition(':')[2]!r} was given before with other contents; "
                            f"give every {job.kind} an id of its own, and nothing of this request was taken."
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
                    f"{open_jobs} nearline jobs are open, and this service takes {self._most_open}; ask again later.",
                    30.0,
                )
        return Accepted(new=len(jobs) - known, known=known)

    def claim(self, *, window: int, now: float, lost_after: float) -> list[Job]:
        """Marks jobs as enqueued and returns them for the caller to send at once: those that count as lost, then those
        that wait, the oldest first.

        Args:
            window: jobs that may be enqueued at a time; the rest waits here, where nothing can be lost.
            lost_after: seconds without an outcome after which a job counts as lost; doubled each time it is sent.
        """
        with self._file.transaction() as db:
            in_flight = db.execute(
                "SELECT count(*) FROM jobs WHERE state = 'enqueued' AND due_at > ?", (now,)
            ).fetchone()[0]
            jobs: list[Job] = []
            for state in ("enqueued", "accepted"):  # one at a time, so that the index gives them in order
                rows = db.execute(
                    f"SELECT {_JOB} FROM jobs WHERE state = ? AND due_at <= ? ORDER BY due_at LIMIT ?",
                    (state, now, max(0, window - in_flight - len(jobs))),
                )
                jobs += map(_job, rows.fetchall())
            db.executemany(
                "UPDATE jobs SET state = 'enqueued', sends = sends + 1, due_at = ? WHERE job_id = ?",
                [(now + lost_after * min(2**job.sends, _MOST_BACKOFF), job.job_id) for job in jobs],
            )
        return jobs

    def release(self, job_ids: Sequence[str], *, due_at: float) -> None:
        """Takes back claims: the jobs could not be sent, and wait until `due_at`."""
        self._each(
            "UPDATE jobs SET state = 'accepted', sends = sends - 1, due_at = ? WHERE job_id = ? AND state = 'enqueued'",
            [(due_at, job_id) for job_id in job_ids],
        )

    def enqueued(self) -> list[str]:
        """Ids of the jobs that were sent and have no outcome yet."""
        return [job_id for (job_id,) in self._file.rows("SELECT job_id FROM jobs WHERE state = 'enqueued'")]

    def settle(self, job_ids: Sequence[str], now: float) -> None:
        """These jobs are done."""
        self._each(
            f"UPDATE jobs SET state = 'done', error = NULL, settled_at = ? WHERE job_id = ? AND {_OPEN}",
            [(now, job_id) for job_id in job_ids],
        )

    def retry(self, errors: Mapping[str, str], *, due_at: float) -> None:
        """These jobs failed, each with its error, and are sent again after `due_at`."""
        self._each(
            "UPDATE jobs SET state = 'accepted', due_at = ?, error = ? WHERE job_id = ? AND state = 'enqueued'",
            [(due_at, error, job_id) for job_id, error in errors.items()],
        )

    def bury(self, errors: Mapping[str, tuple[str, int]], now: float) -> None:
        """These jobs are given up, each with its error and the number of attempts."""
        self._each(
            f"UPDATE jobs SET state = 'dead', error = ?, attempts = ?, settled_at = ? WHERE job_id = ? AND {_OPEN}",
            [(error, attempts, now, job_id) for job_id, (error, attempts) in errors.items()],
        )

    def dead_letters(self, *, member_id: str | None = None, limit: int = 1_000) -> list[DeadLetter]:
        """Jobs that were given up, the latest first."""
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
        """Gives dead jobs another chance; None: all of them. Returns how many."""
        chosen = "" if job_ids is None else "AND job_id IN (SELECT value FROM json_each(?))"
        with self._file.transaction() as db:
            return db.execute(
                f"UPDATE jobs SET state = 'accepted', due_at = 0, sends = 0, attempts = 0, error = NULL, "
                f"settled_at = NULL WHERE state = 'dead' {chosen}",
                () if job_ids is None else (json.dumps(list(job_ids)),),
            ).rowcount

    def replay_done(self, *, after: int) -> int:
        """Does jobs again that are done: after the member context was built again from tables, those that came since.

        Args:
            after: the tables hold everything up to then, in microseconds since 1970: events with a later timestamp of
                their own, and requests that were accepted later, are done again.

        Returns:
            How many.
        """
        with self._file.transaction() as db:
            return db.execute(
                "UPDATE jobs SET state = 'accepted', due_at = 0, sends = 0, settled_at = NULL WHERE state = 'done' AND "
                "coalesce(json_extract(payload, '$.timestamp'), accepted_at) > ?",
                (after,),
            ).rowcount

    def waiting(self, member_id: str, task: str) -> list[Waiting]:
        """Open events of the member, and open requests for this ranking; the oldest first."""
        rows = self._file.rows(
            f"SELECT job_id, accepted_at FROM jobs WHERE member_id = ? AND coalesce(task, ?) = ? AND {_OPEN} "
            "ORDER BY accepted_at",
            (member_id, task, task),
        )
        return [Waiting(job_id=job_id, accepted_at=accepted_at) for job_id, accepted_at in rows]

    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        return dict(self._file.rows("SELECT state, count(*) FROM jobs GROUP BY state"))

    def prune(self, before: float) -> int:
        """Removes jobs that were done before that time, in seconds since 1970. Returns how many."""
        with self._file.transaction() as db:
            return db.execute("DELETE FROM jobs WHERE state = 'done' AND settled_at < ?", (before,)).rowcount

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    @staticmethod
    def depth(path: Path) -> int:
        """How many jobs are open in the outbox at `path`; it is only read, and 0 where it does not exist.

        Raises:
            Unavailable: the file cannot be read now.
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
