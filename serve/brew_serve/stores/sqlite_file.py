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

_WAIT_SECONDS = 30.0  # for the transaction of another process; ours take milliseconds


class Unavailable(Refusal):
    """A store cannot be used now. Nothing was written partially, and a retry can succeed."""

    status, code = 503, "unavailable"

    def __init__(self, sentence: str, retry_after: float = 2.0) -> None:  # a restart of Redis takes about as long
        super().__init__(sentence, retry_after)


class SqliteFile:
    """A connection for use from any thread. Transactions of different threads wait for each other.

    Args:
        path: Path of the file; its folder is created.
        schema: SQL statements that create missing tables. None requires that the file exists.
        writable: False opens the file read-only.

    Raises:
        UserError: The file does not exist, or it is not a SQLite database.
    """

    def __init__(self, path: Path, schema: str | None = None, *, writable: bool = True) -> None:
        self.path = path
        self._lock = threading.RLock()
        if schema is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.is_file():
            raise UserError(f"{path} does not exist. Pass the path of an existing file, or build it first.")
        mode = "rwc" if schema is not None else "rw" if writable else "ro"
        self._db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            check_same_thread=False,
            isolation_level=None,  # no implicit transactions
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
            raise UserError(f"{path} cannot be used as a database ({error}). Move it away, or rebuild it.") from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block in a write transaction: committed and synced at its end, rolled back if it raises.

        Raises:
            Unavailable: The file is locked for too long, or the disk is full or fails.
        """
        with self._lock, self._translate_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def rows(self, sql: str, arguments: Sequence[object] | Mapping[str, object] = ()) -> list[Any]:
        """Return all rows of one SELECT, which reads a consistent snapshot of the file.

        Args:
            sql: The statement.
            arguments: Values of its placeholders.

        Raises:
            Unavailable: As `transaction`.
        """
        with self._lock, self._translate_errors():
            return self._db.execute(sql, arguments).fetchall()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise Unavailable(
                f"{self.path.name} cannot be used now ({error}). Try again. If this persists, check the free space and "
                f"the permissions of its disk."
            ) from error
