"""A job that outlives its driver: starts it as a child, and again when it is lost.

Holds the decision and the loop.
Ray Train restarts lost workers, but its controller dies with the driver's node. On a cluster a RayJob's backoffLimit
does the same as this loop.
"""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Decision", "decide", "relaunch"]

INTERRUPTED = 130
FINAL = {0, 2, INTERRUPTED}  # done; what was given cannot work; interrupted: starting again would change nothing
LONGEST_WAIT = 60.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do after a child ended."""

    again: bool
    wait_seconds: float = 0.0


def decide(code: int, *, progressed: bool, losses: int, most: int) -> Decision:
    """Whether to start the job again.

    Args:
        code: exit code of the child; negative: the signal that killed it.
        progressed: whether it came further than the one before.
        losses: children lost so far without progress between them, this one included.
        most: such losses in a row before giving up.
    """
    if code in FINAL:
        return Decision(again=False)
    if progressed:
        return Decision(again=True)
    return Decision(again=losses <= most, wait_seconds=min(2.0 ** (losses - 1), LONGEST_WAIT))


def relaunch(
    command: Sequence[str],
    *,
    most: int,
    progress: Callable[[], int],
    on_loss: Callable[[int, Decision], None] = lambda code, decision: None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Runs `command` until it ends for good, and returns its exit code (128 + signal where one killed it).

    Args:
        command: of the child. It is in a process group of its own: Ctrl-C reaches only this process, which passes it on
            once. Two signals at about one time would cut short what the first one had it tidy up.
        most: losses in a row without progress that are borne.
        progress: how far the job is, in steps.
        on_loss: called with a message for each lost child.

    Raises:
        KeyboardInterrupt: this process or the child was interrupted; the child has ended.
    """
    losses, reached = 0, progress()
    while True:
        with subprocess.Popen(command, process_group=0) as child:
            code = _wait(child)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        now = progress()
        progressed, reached = now > reached, now
        losses = 1 if progressed else losses + 1
        decision = decide(code, progressed=progressed, losses=losses, most=most)
        if code not in FINAL:
            on_loss(code, decision)
        if not decision.again:
            return code if code >= 0 else 128 - code
        sleep(decision.wait_seconds)


def _wait(child: subprocess.Popen) -> int:
    """Returns its exit code, or `INTERRUPTED` after an interrupt, however the child then ends.

    The first interrupt asks the child to end, a further one kills it.
    """
    interrupts = 0
    while True:
        try:
            code = child.wait()
            return INTERRUPTED if interrupts else code
        except KeyboardInterrupt:
            interrupts += 1
            child.send_signal(signal.SIGINT if interrupts == 1 else signal.SIGKILL)
