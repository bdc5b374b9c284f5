"""A SQLite file in WAL mode, shared by threads and processes of one machine; the default of every store."""

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from brew_platform.errors import UserError
from brew_serve.errors import Refusal

__all__ = ["SqliteFile", "Unavailable"]

_WAIT_SECONDS = 30.0  # for another process's transaction; ours take milliseconds


class Unavailable(Refusal):
    """A store cannot be used at the moment; nothing was half-written, and asking again may succeed."""

    status, code = 503, "unavailable"

    def __init__(self, sentence: str, retry_after: float = 2.0) -> None:  # a restart of Redis takes about as long
        super().__init__(sentence, retry_after)


class SqliteFile:
    """A connection that may be used from any thread; a transaction of one thread waits for that of another.

    Args:
        path: of the file; its folder is made.
        schema: statements that make its tables where they are missing; None: the file must exist.
        writable: False opens it read-only.

    Raises:
        UserError: the file does not exist, or it is no SQLite database.
    """

    def __init__(self, path: Path, schema: str | None = None, *, writable: bool = True) -> None:
        self.path = path
        self._lock = threading.RLock()
        if schema is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.is_file():
            raise UserError(f"{path} does not exist; give the path of a file that was built, or build it first.")
        mode = "rwc" if schema is not None else "rw" if writable else "ro"
        self._db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            check_same_thread=False,
            isolation_level=None,  # transactions begin where we say so
            timeout=_WAIT_SECONDS,
        )
        try:
            if writable:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
            else:
                self._db.execute("SELECT 1 FROM sqlite_master").fetchone()
            if schema is not None:
                self._db.executescript(schema)
        except sqlite3.Error as error:
            self._db.close()
            raise UserError(
                f"{path} cannot be used as a database ({error}). Move it away, or build it again."
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: committed and synced where the block ends well, undone where it raises.

        Raises:
            Unavailable: the file is locked for too long, or the disk is full or fails.
        """
        with self._lock, self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def rows(self, sql: str, arguments: Sequence[object] | Mapping[str, object] = ()) -> list[Any]:
        """All rows of one SELECT, which sees one moment of the file.

        Raises:
            Unavailable: as `transaction`.
        """
        with self._lock, self._told():
            return self._db.execute(sql, arguments).fetchall()

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise Unavailable(
                f"{self.path.name} cannot be used now ({error}). Ask again; where this goes on, see to the space and "
                f"the rights of its disk."
            ) from error
