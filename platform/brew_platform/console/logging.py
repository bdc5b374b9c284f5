"""The full log in a file, and a console that shows only what brew360 itself has to say.

Owns: where log records of this process go, and hands on `Stages` and its console (brew_platform.console.progress), the other
half of what a user sees. Does not own what other processes print.
"""

import logging
import sys
from pathlib import Path

from brew_platform.console.progress import PipeSafeConsole, Stages
from brew_platform.errors import UserError

__all__ = ["OpenLog", "PipeSafeConsole", "Stages", "open_log"]


class OpenLog:
    """A log file that is open; see `open_log`. Closing it, or leaving its `with` block, restores what was before."""

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
        """Sends what libraries log to the file only. A library that sets up its log later needs another call."""
        console = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)  # a live bar replaces the first two
        loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
        for logger in [self._root, *loggers]:
            for handler in list(logger.handlers):
                if isinstance(handler, logging.StreamHandler) and handler.stream in console:
                    self._quieted.append((logger, handler, logger.propagate))
                    logger.removeHandler(handler)
                    logger.propagate = True

    def close(self) -> None:
        """Restores the handlers and the level that were there before, and closes the file."""
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
    """Sends every log record of this process, and Python's warnings, to the file `path`, which is appended to.

    The console keeps only warnings and errors of brew360's own loggers (`brew_*`).

    Args:
        path: of the file; its folder is made.
        level: the least severe level that is recorded.

    Returns:
        The open log; used as `with open_log(path):` it is closed at the end, otherwise it stays for the whole process.

    Raises:
        UserError: the file cannot be written.
    """
    return OpenLog(path, level)


class _OurWarnings(logging.Handler):
    """Prints records of brew360's loggers to what is the standard error at that moment, so also above a live bar."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("brew_"):
            try:
                print(self.format(record), file=sys.stderr)
            except (OSError, ValueError):  # the console is gone; the file has it
                return
