"""How a command runs and ends: error sentences, exit codes, the log file, and cleanup of the processes it started.

Exit codes: 0 success; 1 failure; 2 invalid input (UserError); 130 interrupted.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from brew_platform.console.logging import open_log
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import BrewError, UserError, first_cause
from brew_platform.processes import become_subreaper, guard_descendants, kill_descendants
from brew_platform.tracing import configure_tracing, start_span

__all__ = ["log_to", "report_errors", "supervise"]


@contextmanager
def log_to(path: Path, *, private: bool = False) -> Iterator[None]:
    """Write the log of the block to a file, including the traceback of a failure, and trace it as a span.

    The span is named after the file. Its parent is in the environment variable TRACEPARENT, if there is one.

    Args:
        path: The file.
        private: Leave out messages of libraries' exceptions, which may repeat what a prompt contains.
    """
    configure_tracing("command")
    with open_log(path, private=private), start_span(f"brew360 {path.stem}", parent=os.environ.get("TRACEPARENT", "")):
        try:
            yield
        except Exception:
            logging.getLogger(__name__).info("failed", exc_info=True)
            raise


@contextmanager
def report_errors(console: PlainConsole) -> Iterator[None]:
    """Print a failure of the block as one sentence and exit with its code. For commands that start no process."""
    code = 0
    try:
        yield
    except KeyboardInterrupt:
        console.print("interrupted.")
        code = 130
    except Exception as error:
        code = _print_error(error, console)
    if code:
        sys.exit(code)


@contextmanager
def supervise(console: PlainConsole, *, keep_children: bool = False, relaunched: bool = False) -> Iterator[None]:
    """Same as `report_errors`, and end all processes that the block started.

    Args:
        console: Where the sentence is printed.
        keep_children: Processes that the block started keep running if it succeeds.
        relaunched: This process is the child of a relauncher, which reports interrupts itself.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    if relaunched:  # a shell that starts a job with & ignores SIGINT, but the relauncher interrupts its child with it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    become_subreaper()
    code = 0
    try:
        with guard_descendants():
            yield
    except (KeyboardInterrupt, SystemExit):
        if not relaunched:
            console.print("interrupted: stopping everything that was started; run the same command again.")
        code = 130
    except Exception as error:
        code = _print_error(error, console)
    if code or not keep_children:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half of the processes
        kill_descendants()
    if code:
        sys.exit(code)


def _print_error(error: Exception, console: PlainConsole) -> int:
    """Print the sentence of `error` and return the exit code."""
    cause = first_cause(error)
    if isinstance(cause, BrewError):
        console.print(f"error: {cause}", style="red")
        return 2 if isinstance(cause, UserError) else 1
    if isinstance(cause, OSError) and cause.filename and cause.strerror:
        console.print(
            f"error: {cause.filename}: {cause.strerror}. Check the path, its permissions and its disk.", style="red"
        )
        return 1
    text = f"error: {type(cause).__name__}: {cause}".splitlines()[0]
    console.print(f"{text} (the log in the run's folder has the details)", style="red")
    return 1


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
