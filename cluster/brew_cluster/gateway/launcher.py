"""Runs a brew360 command as a Ray job: `python -m brew_cluster.gateway.launcher train RECIPE KEY=VALUE...`.

To stop a Ray job, Ray sends SIGTERM to all of its processes at once, and SIGKILL after a grace time. The command does
not get that SIGTERM. This process requests a checkpoint of a training, waits until it is written, and then interrupts
the command. A preempted training repeats only the steps between that checkpoint and the interrupt.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["BREW360", "RECIPE_VARIABLE", "STOP_VARIABLE", "main"]

RECIPE_VARIABLE = "BREW360_JOB_RECIPE"  # environment variable: content of the recipe's file
STOP_VARIABLE = "BREW360_JOB_STOP_SECONDS"  # environment variable: between Ray's SIGTERM and its SIGKILL
_POLL_SECONDS = 0.2
_SHARE_FOR_CHECKPOINT = 0.7  # of the grace time; the rest is for the end of the command
_INTERRUPTED = 130
BREW360 = (sys.executable, "-c", "from brew_cluster.cli.main import main; main()")


def main(arguments: Sequence[str], *, program: Sequence[str] = BREW360) -> int:
    """Run a command, and return its exit code.

    Args:
        arguments: Of the command.
        program: Runs it; for tests.
    """
    stopped_at: list[float] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped_at.append(time.monotonic()))
    with tempfile.TemporaryDirectory(prefix="brew360-recipe-") as folder:
        command = _with_recipe_file(arguments, Path(folder))
        child = subprocess.Popen(
            [*program, *command],
            preexec_fn=_block_sigterm,  # this process has one thread
        )
        while True:
            with suppress(subprocess.TimeoutExpired):
                code = child.wait(timeout=_POLL_SECONDS)
                return code if code >= 0 else 128 - code
            if stopped_at:
                return _stop(child, command, stopped_at[0])


def _block_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM})  # inherited; Ray has blocked SIGINT


def _with_recipe_file(arguments: Sequence[str], folder: Path) -> list[str]:
    """Write the recipe's file, if there is one, and put its path in place of its name."""
    text = os.environ.pop(RECIPE_VARIABLE, None)
    command = list(arguments)
    if text is None:
        return command
    at = 2 if command[0] == "data" else 1
    path = folder / command[at]
    path.write_text(text, encoding="utf-8")
    return [*command[:at], str(path), *command[at + 1 :]]


def _stop(child: subprocess.Popen, command: Sequence[str], since: float) -> int:
    """Let a training write a checkpoint, interrupt the command, and return the exit code of an interrupted command."""
    grace = float(os.environ.get(STOP_VARIABLE, "10"))
    written = _request_checkpoint(command)
    while child.poll() is None and not written() and time.monotonic() < since + grace * _SHARE_FOR_CHECKPOINT:
        time.sleep(_POLL_SECONDS)
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    code = child.wait()  # Ray kills all processes at the end of the grace time
    return code if code == 0 else _INTERRUPTED


def _request_checkpoint(command: Sequence[str]) -> Callable[[], bool]:
    """Request a checkpoint of a training; return a function that tells whether it is written, or will not be."""
    if command[0] != "train":
        return lambda: True
    try:
        from brew_cluster.jobs.train_job import load_job
        from brew_train.checkpoints.manifest import CHECKPOINTS, peek_checkpoint

        recipe, *others = [argument for argument in command[1:] if not argument.startswith("-")]
        run = Path(load_job(recipe, others).run)

        def step() -> int:
            newest = peek_checkpoint(run / CHECKPOINTS)
            return newest.step if newest else -1

        before = step()
        (run / "checkpoint-now").touch()
        print("stopping: a checkpoint is requested", flush=True)
    except Exception as error:  # nothing has been written yet
        print(f"stopping without a checkpoint: {error}", flush=True)
        return lambda: True
    return lambda: step() > before


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
