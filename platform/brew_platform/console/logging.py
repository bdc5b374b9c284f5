"""Writes the log file of a command, and prints only brew360's own warnings to the console."""

import logging
import sys
from pathlib import Path

from brew_platform.errors import UserError

__all__ = ["OpenLog", "open_log"]


class OpenLog:
    """An open log file; see `open_log`. Closing it, or leaving its `with` block, restores the previous handlers."""

    def __init__(self, path: Path, level: int) -> None:
        self.path = path
        self._root = logging.getLogger()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = logging.FileHandler(path, encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"cannot write the log file {path}: {error.strerror}. Choose a folder that this user can write to."
            ) from error
        self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._console = _OurWarnings(logging.WARNING)
        self._console.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
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


def open_log(path: Path, *, level: int = logging.INFO) -> OpenLog:
    """Append every log record of this process, and Python's warnings, to a file.

    The console shows only warnings and errors of brew360's own loggers (`brew_*`).

    Args:
        path: The file; its folder is created.
        level: The lowest level that is recorded.

    Returns:
        The open log. It is a context manager: `with open_log(path):` closes it at the end of the block.

    Raises:
        UserError: The file cannot be written.
    """
    return OpenLog(path, level)


class _OurWarnings(logging.Handler):
    """Prints records of brew360's loggers to the current standard error, which a live bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("brew_"):
            try:
                print(self.format(record), file=sys.stderr)
            except (OSError, ValueError):  # the console is closed; the file has the record
                return
