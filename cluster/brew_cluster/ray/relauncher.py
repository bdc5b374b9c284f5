"""Runs a driver as a child process and restarts it when it is lost.

Ray Train restarts lost workers, but its controller runs in the driver. On a cluster, the `backoffLimit` of a RayJob has
the same function as this loop.
"""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Decision", "decide", "relaunch"]

INTERRUPTED = 130
FINAL = {0, 2, INTERRUPTED}  # success, invalid input, interrupted: a restart would not help
LONGEST_WAIT = 60.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The action after the end of a child process."""

    again: bool
    wait_seconds: float = 0.0


def decide(code: int, *, progressed: bool, losses: int, most: int) -> Decision:
    """Decide whether to restart the job.

    Args:
        code: The exit code of the child; a negative code is the signal that killed it.
        progressed: Whether the child made progress.
        losses: The number of losses in a row without progress, including this one.
        most: The maximum number of such losses.

    Returns:
        The decision, with an exponentially growing wait of at most 60 s.
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
    """Run a command as a child process, and restart it until it ends with a final exit code.

    The child is in its own process group, so Ctrl-C reaches only this process, which forwards it once. A second signal
    at the same time would interrupt the child's cleanup.

    Args:
        command: The command line of the child.
        most: The maximum number of losses in a row without progress.
        progress: Returns the progress of the job, in steps.
        on_loss: Called with the exit code and the decision after each loss.
        sleep: Waits for a number of seconds.

    Returns:
        The exit code of the last child, or 128 + signal if a signal killed it.

    Raises:
        KeyboardInterrupt: This process or the child was interrupted; the child has ended.
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
    """Wait for a child and return its exit code, or `INTERRUPTED` if there was an interrupt.

    The first interrupt is forwarded to the child; the second one kills it.
    """
    interrupts = 0
    while True:
        try:
            code = child.wait()
            return INTERRUPTED if interrupts else code
        except KeyboardInterrupt:
            interrupts += 1
            child.send_signal(signal.SIGINT if interrupts == 1 else signal.SIGKILL)
