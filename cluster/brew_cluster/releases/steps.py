"""Runs the steps of a long benchmark as commands. A finished step is not run again, and an interrupted one continues.

A step is identified by its command, the contents of the files that it names, and the steps that it depends on. If one
of these changes, its output is removed and it runs again, as do the steps that depend on it.
"""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from brew_platform.console.progress import duration
from brew_platform.errors import BrewError
from brew_platform.files import replace_atomically
from brew_platform.processes import ProcessTreeMeter

__all__ = ["StepFailed", "StepRecord", "Steps"]


class StepFailed(BrewError):
    """The command of a step failed. Its own message is above; the remedy is there."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What is known of a step."""

    key: str  # identifies the step; other settings have another key
    finished: bool
    seconds: float  # over all attempts
    peak_bytes: int  # largest memory of this process and those that it started, over all attempts


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
        """Run a step, unless it has finished before.

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
        key = self._key(command, files, after)
        earlier = self._read(name)
        same = earlier is not None and earlier.key == key
        if earlier is not None and same and earlier.finished and output.exists():
            self._say(f"{head}: done before ({duration(earlier.seconds)})")
            self.records[name] = earlier
            return output
        if earlier is not None and (not same or earlier.finished):
            _remove(output)
            earlier = None
        start, seconds = time.monotonic(), earlier.seconds if earlier else 0.0
        self._say(f"{head}: {' '.join(command[1:] if len(command) > 1 else command)}")
        self._write(name, StepRecord(key=key, finished=False, seconds=seconds, peak_bytes=0))
        code: int | None = None
        # Each sample holds up the memory allocation of a process of several gigabytes.
        with ProcessTreeMeter(interval_seconds=3.0) as memory:
            try:
                code = _run(command, environment or {})
            finally:
                record = StepRecord(
                    key=key,
                    finished=code == 0,
                    seconds=round(seconds + time.monotonic() - start, 2),
                    peak_bytes=max(memory.peak_bytes, earlier.peak_bytes if earlier else 0),
                )
                self._write(name, record)
        if code:
            raise StepFailed(
                f"step {name} failed with exit code {code}; its message is above. Correct the cause and run the same "
                f"command again: finished steps are kept."
            )
        self._say(f"{head}: {duration(record.seconds)}")
        self.records[name] = record
        return output

    def _key(self, command: Sequence[str], files: Sequence[Path], after: Sequence[str]) -> str:
        parts = [
            list(command[1:]),
            [hashlib.sha256(path.read_bytes()).hexdigest() for path in files],
            [self.records[name].key for name in after],
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _read(self, name: str) -> StepRecord | None:
        try:
            return StepRecord(**json.loads((self._folder / f"{name}.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _write(self, name: str, record: StepRecord) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        replace_atomically(self._folder / f"{name}.json", json.dumps(asdict(record)) + "\n")

    def _say(self, text: str) -> None:
        self._console.print(text, style="bold", soft_wrap=True, markup=False, highlight=False)


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
