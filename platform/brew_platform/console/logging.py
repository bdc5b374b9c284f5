"""Log files with one JSON object per line, and brew360's own warnings on the console of a command.

Every process of brew360 writes such a file: a command with `open_log`, a process of the service and a training worker
with `open_process_log`. A record has these keys:

| key | |
|---|---|
| time | UTC, ISO 8601 with microseconds |
| level, logger, message | of the log call |
| process, pid | what the process is (`gateway`, `replica`, ...), and its id |
| request_id, trace_id | of the request that is answered: the fields of the innermost `log_fields` block |
| span_id | of the current span, if spans are recorded (`brew_platform.tracing`) |
| exception | of a failure: `[{"type", "message", "frames"}, ...]`, the raised exception first, then its causes |

A log call adds keys with `extra={"fields": {...}}`. Control characters and quotes are escaped, so a record is one line
whatever it holds. An id of a person is passed as `PrivateId`, of which only a keyed hash is written.
"""

import json
import logging
import logging.handlers
import os
import secrets
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from brew_platform.console.plain_console import escape_controls
from brew_platform.errors import BrewError, UserError
from brew_platform.tracing import current_span

__all__ = ["JsonFormatter", "OpenLog", "PrivateId", "ProcessLog", "log_fields", "open_log", "open_process_log"]

_PACKAGES = ("brew_platform", "brew_data", "brew_train", "brew_serve", "brew_eval", "brew_cluster")
_MOST_BYTES, _KEPT_FILES = 100_000_000, 5  # of a service's log; as Ray's own logs
_MOST_CAUSES = 5
_MOST_FRAMES = 50  # per exception, the innermost
_context_fields: ContextVar[Mapping[str, str]] = ContextVar("brew360_log_fields", default={})  # noqa: B039 - never changed


@contextmanager
def log_fields(**fields: str) -> Iterator[None]:
    """Add keys to every record of the block, also of the tasks and coroutines that it starts."""
    token = _context_fields.set({**_context_fields.get(), **fields})
    try:
        yield
    finally:
        _context_fields.reset(token)


class PrivateId:
    """The id of a person in a log call. `JsonFormatter` writes a keyed hash of it; its text reveals nothing."""

    def __init__(self, value: str) -> None:
        self._value = value

    def hashed(self, key: bytes) -> str:
        """Return 16 hex digits, equal for equal ids under one key; without the key an id cannot be tested."""
        return blake2b(self._value.encode("utf-8", "surrogatepass"), key=key, digest_size=8).hexdigest()

    def __repr__(self) -> str:
        return "<id>"


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON in ASCII.

    Args:
        process: What the process is, such as `gateway`.
        key: Key of the hashes of `PrivateId`, at most 64 bytes; None: a random one.
        private: Leave out the messages of exceptions that are neither ours nor the operating system's: they may repeat
            what a request contains.
    """

    def __init__(self, process: str, *, key: bytes | None = None, private: bool = False) -> None:
        super().__init__()
        self._process, self._key, self._private = process, key or secrets.token_bytes(32), private

    def format(self, record: logging.LogRecord) -> str:
        fields: Mapping[str, Any] = {**_context_fields.get(), **getattr(record, "fields", {})}
        if span_id := current_span().span_id:
            fields = {"trace_id": current_span().trace_id, "span_id": span_id, **fields}
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": self._process,
            "pid": record.process,
            "message": self._message(record),
            **{name: self._public(value) for name, value in fields.items()},
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = [self._exception(error) for error in _causes(record.exc_info[1])]
        return json.dumps(line, default=str)

    def _message(self, record: logging.LogRecord) -> str:
        arguments = record.args
        if isinstance(arguments, tuple):
            arguments = tuple(self._public(value) for value in arguments)
        try:
            return str(record.msg) % arguments if arguments else str(record.msg)
        except (TypeError, ValueError, KeyError):  # placeholders and arguments differ: the record is kept
            return str(record.msg)

    def _public(self, value: Any) -> Any:
        return value.hashed(self._key) if isinstance(value, PrivateId) else value

    def _exception(self, error: BaseException) -> dict[str, Any]:
        frames = traceback.extract_tb(error.__traceback__)[-_MOST_FRAMES:]
        described: dict[str, Any] = {"type": f"{type(error).__module__}.{type(error).__qualname__}"}
        if not self._private or isinstance(error, BrewError | OSError):
            described["message"] = str(error)
        return {**described, "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]}


class ProcessLog:
    """The open log of a process of the service or of a training worker; see `open_process_log`."""

    def __init__(self, path: Path | None, handler: logging.Handler) -> None:
        self.path = path
        self._handler = handler
        self._levels = [(logger, logger.level) for logger in map(logging.getLogger, _PACKAGES)]
        for logger, _ in self._levels:
            logger.setLevel(logging.INFO)
        logging.getLogger().addHandler(handler)

    def close(self) -> None:
        """Close the file, and restore the previous levels."""
        logging.getLogger().removeHandler(self._handler)
        self._handler.close()
        for logger, level in self._levels:
            logger.setLevel(level)

    def __enter__(self) -> "ProcessLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_process_log(path: Path | None, *, process: str, key: bytes | None = None, private: bool = False) -> ProcessLog:
    """Append brew360's records from INFO on, and the warnings of libraries, to a file that is rotated at 100 MB.

    Args:
        path: The file; its folder is created. None: standard output.
        process: What the process is, such as `gateway`.
        key: See `JsonFormatter`.
        private: See `JsonFormatter`.

    Raises:
        UserError: The file cannot be written.
    """
    handler = logging.StreamHandler(sys.stdout) if path is None else _open(path, rotate=True)
    handler.setFormatter(JsonFormatter(process, key=key, private=private))
    return ProcessLog(path, handler)


class OpenLog:
    """An open log file; see `open_log`. Closing it, or leaving its `with` block, restores the previous handlers."""

    def __init__(self, path: Path, level: int, *, private: bool = False) -> None:
        self.path = path
        self._root = logging.getLogger()
        self._file = _open(path, rotate=False)
        self._file.setFormatter(JsonFormatter("command", private=private))
        self._console = _OurWarnings(logging.WARNING)
        self._quieted: list[tuple[logging.Logger, logging.Handler, bool]] = []
        self._level = self._root.level
        self._root.setLevel(level)
        self._root.addHandler(self._file)
        self._root.addHandler(self._console)
        logging.captureWarnings(True)
        self.quiet()

    def quiet(self) -> None:
        """Send the records of libraries to the file only. Call it again after a library has set up its logging."""
        console = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)  # a live bar replaces the first two
        loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
        for logger in [self._root, *loggers]:
            for handler in list(logger.handlers):
                if isinstance(handler, logging.StreamHandler) and handler.stream in console:
                    self._quieted.append((logger, handler, logger.propagate))
                    logger.removeHandler(handler)
                    logger.propagate = True

    def close(self) -> None:
        """Restore the previous handlers and level, and close the file."""
        for logger, handler, propagate in reversed(self._quieted):
            logger.addHandler(handler)
            logger.propagate = propagate
        self._quieted.clear()
        logging.captureWarnings(False)
        self._root.removeHandler(self._console)
        self._root.removeHandler(self._file)
        self._root.setLevel(self._level)
        self._file.close()

    def __enter__(self) -> "OpenLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_log(path: Path, *, level: int = logging.INFO, private: bool = False) -> OpenLog:
    """Append every log record of this command, and Python's warnings, to a file.

    The console shows only warnings and errors of brew360's own loggers (`brew_*`).

    Args:
        path: The file; its folder is created.
        level: The lowest level that is recorded.
        private: See `JsonFormatter`.

    Returns:
        The open log. It is a context manager: `with open_log(path):` closes it at the end of the block.

    Raises:
        UserError: The file cannot be written.
    """
    return OpenLog(path, level, private=private)


class _OurWarnings(logging.Handler):
    """Prints records of brew360's loggers to the current standard error, which a live bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("brew_"):
            try:
                print(f"{record.levelname}: {escape_controls(record.getMessage())}", file=sys.stderr)
            except (OSError, ValueError):  # the console is closed; the file has the record
                return


def _open(path: Path, *, rotate: bool) -> logging.FileHandler:
    most, kept = (_MOST_BYTES, _KEPT_FILES) if rotate else (0, 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return logging.handlers.RotatingFileHandler(path, maxBytes=most, backupCount=kept, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write the log file {os.fspath(path)}: {error.strerror}. Choose a folder that this user can write "
            f"to."
        ) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what caused it."""
    current: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if current is None:
            return
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
