"""Runs steps as commands and keeps a record of each. A finished step is not run again, an interrupted one continues.

A step is identified by its command, the contents of the files that it names, and the steps that it depends on. If one
of these changes, its key is another one, as are those of the steps that depend on it. `Steps` runs the steps of a
long benchmark; a release keeps each step in a folder that is named after its key (`plan`).
"""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from brew_platform.console.progress import duration
from brew_platform.errors import BrewError
from brew_platform.files import replace_atomically
from brew_platform.processes import ProcessTreeMeter

__all__ = ["StepFailed", "StepRecord", "Steps", "keep_record", "read_record", "step_key"]


class StepFailed(BrewError):
    """The command of a step failed. Its own message is above; the remedy is there."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What is known of a step."""

    key: str  # identifies the step; other settings have another key
    finished: bool
    seconds: float  # over all attempts
    peak_bytes: int  # largest memory of this process and those that it started, over all attempts


def step_key(command: Sequence[str], files: Sequence[str], after: Sequence[str]) -> str:
    """Return the key of a step.

    Args:
        command: Program and arguments; the program does not count.
        files: SHA-256 of the content of each file that decides what the command does.
        after: Keys of the steps whose output the command reads.

    Returns:
        64 hex digits.
    """
    parts = [list(command[1:]), list(files), list(after)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_record(path: Path) -> StepRecord | None:
    """Read a record; None if there is none, or it is not readable."""
    try:
        return StepRecord(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def keep_record(path: Path, key: str, run: Callable[[], int]) -> tuple[StepRecord, int]:
    """Run a step that has not finished, and keep its record: unfinished before, with its time and memory after.

    Args:
        path: File of the record; an unfinished record there is of an earlier attempt.
        key: Of the step.
        run: Runs the command, and returns its exit code.

    Returns:
        The record, and the exit code.
    """
    earlier = read_record(path)
    start, seconds = time.monotonic(), earlier.seconds if earlier else 0.0
    _write(path, StepRecord(key=key, finished=False, seconds=seconds, peak_bytes=0))
    code: int | None = None
    # Each sample holds up the memory allocation of a process of several gigabytes.
    with ProcessTreeMeter(interval_seconds=3.0) as memory:
        try:
            code = run()
        finally:
            record = StepRecord(
                key=key,
                finished=code == 0,
                seconds=round(seconds + time.monotonic() - start, 2),
                peak_bytes=max(memory.peak_bytes, earlier.peak_bytes if earlier else 0),
            )
            _write(path, record)
    return record, code


class Steps:
    """The steps of one run.

    Args:
        folder: Receives one record per step.
        console: Shows which step runs, and which was done before.
        names: All steps, in order; for the numbers that are shown.

    Attributes:
        records: The record of each step that has finished, by name.
    """

    def __init__(self, folder: Path, console: Console, names: Sequence[str]) -> None:
        self._folder, self._console, self._names = folder, console, list(names)
        self.records: dict[str, StepRecord] = {}

    def run(
        self,
        name: str,
        command: Sequence[str],
        *,
        output: Path,
        files: Sequence[Path] = (),
        after: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Path:
        """Run a step, unless it has finished before. If its key has changed, its output is removed first.

        Args:
            name: Of the step.
            command: Program and arguments. An interrupted command is run again with the same arguments.
            output: File or folder that the command writes; removed if it is of another step with this name.
            files: Files that decide what the command does.
            after: Names of the steps whose output the command reads.
            environment: Variables to set for the command.

        Returns:
            `output`.

        Raises:
            StepFailed: The command failed.
        """
        head = f"step {self._names.index(name) + 1} of {len(self._names)}, {name}"
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
        key = step_key(command, digests, [self.records[step].key for step in after])
        path = self._folder / f"{name}.json"
        earlier = read_record(path)
        same = earlier is not None and earlier.key == key
        if earlier is not None and same and earlier.finished and output.exists():
            self._say(f"{head}: done before ({duration(earlier.seconds)})")
            self.records[name] = earlier
            return output
        if earlier is not None and (not same or earlier.finished):
            _remove(output)
            path.unlink()
        self._say(f"{head}: {' '.join(command[1:] if len(command) > 1 else command)}")
        record, code = keep_record(path, key, lambda: _run(command, environment or {}))
        if code:
            raise StepFailed(
                f"step {name} failed with exit code {code}; its message is above. Correct the cause and run the same "
                f"command again: finished steps are kept."
            )
        self._say(f"{head}: {duration(record.seconds)}")
        self.records[name] = record
        return output

    def _say(self, text: str) -> None:
        self._console.print(text, style="bold", soft_wrap=True, markup=False, highlight=False)


def _write(path: Path, record: StepRecord) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, json.dumps(asdict(record)) + "\n")


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command in its own session, so that Ctrl-C reaches it once, through this process, and wait for its end."""
    with subprocess.Popen(command, env={**os.environ, **environment}, start_new_session=True) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()  # the command stops what it started; it may have inherited that SIGINT is ignored
            process.wait()
            raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
