"""How a command of `brew360` runs and ends: one sentence for a failure, an exit code, a log, and no orphans.

Owns: that frame. Does not own: what any command does.

Exit codes: 0 done; 1 something failed; 2 what was given cannot work; 130 interrupted.
"""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from brew_platform.console.logging import open_log
from brew_platform.errors import BrewError, UserError, first_cause
from brew_platform.processes import become_subreaper, guard_descendants, kill_descendants

__all__ = ["logged", "one_sentence", "plain_sentence"]


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """A full log in a file; of a failure, too, of which the console gets one sentence."""
    with open_log(path):
        try:
            yield
        except Exception:
            logging.getLogger(__name__).info("failed", exc_info=True)
            raise


@contextmanager
def plain_sentence(console: Console) -> Iterator[None]:
    """Turns a failure into one sentence and an exit code, for commands that start no process."""
    code = 0
    try:
        yield
    except KeyboardInterrupt:
        console.print("interrupted.")
        code = 130
    except Exception as error:
        code = _tell(error, console)
    if code:
        sys.exit(code)


@contextmanager
def one_sentence(console: Console, *, keep_children: bool = False, relaunched: bool = False) -> Iterator[None]:
    """Turns any failure into one sentence and an exit code, and leaves no process behind.

    Args:
        keep_children: processes started by the block stay if it succeeds.
        relaunched: this process is a relauncher's child; of an interrupt that one tells, which always outlives it.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    if relaunched:  # SIGINT is ignored where a shell started the job with &, but it is how the relauncher interrupts
        signal.signal(signal.SIGINT, signal.default_int_handler)
    become_subreaper()
    code = 0
    try:
        with guard_descendants():
            yield
    except (KeyboardInterrupt, SystemExit):
        if not relaunched:
            console.print(
                "interrupted: everything that was started is being stopped; run the same command again.", soft_wrap=True
            )
        code = 130
    except Exception as error:
        code = _tell(error, console)
    if code or not keep_children:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half of the processes
        kill_descendants()
    if code:
        sys.exit(code)


def _tell(error: Exception, console: Console) -> int:
    """Prints the sentence of `error`, and returns the exit code that it means."""
    cause = first_cause(error)
    if isinstance(cause, BrewError):
        console.print(f"error: {cause}", style="red", soft_wrap=True, markup=False, highlight=False)
        return 2 if isinstance(cause, UserError) else 1
    text = f"error: {type(cause).__name__}: {cause}".splitlines()[0]
    console.print(f"{text} (the log in the run's folder has the details)", style="red", soft_wrap=True, markup=False)
    return 1


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
