"""Runs the steps of a release, and reads their states."""

import fcntl
import json
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from brew_cluster.releases.config import TRAINING
from brew_cluster.releases.plan import GATES_FILE, Step
from brew_cluster.releases.runner import JOB_FILE, Job, StepRunner
from brew_cluster.releases.steps import StepFailed, keep_record, read_record
from brew_data.data_folder import DATASET_FILE
from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import duration
from brew_platform.errors import BrewError, UserError
from brew_platform.files import create_exclusively, replace_atomically

__all__ = ["RELEASE_FILE", "Change", "ReleaseFolder", "StepState", "changes", "run_release", "step_state"]

FORMAT_VERSION = 1
RELEASE_FILE = "release.json"
_FAILED, _PUBLICATION, _LOCK = "failed.txt", "publication.txt", "lock"  # files in the folder of a step

State = Literal["waiting", "running", "interrupted", "failed", "skipped", "done"]


@dataclass(frozen=True, kw_only=True)
class StepState:
    """What is known of a step of a release."""

    name: str
    state: State  # waiting: it has not started; skipped: a canary without a service
    seconds: float  # over all attempts
    reason: str = ""  # why it failed or was skipped


@dataclass(frozen=True, kw_only=True)
class Change:
    """A step that would run if the command ran again, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ReleaseFolder:
    """The file `release.json`: a release as it was started last.

    Args:
        name: Of the release.
        recipe: Path or name of the recipe.
        overrides: That it was read with.
        settings: Of all sections, by `section.key`, as they were written.
        steps_folder: Of the folders of the steps.
        steps: Of the release, in their order.
        started: When the command was started last, ISO 8601.
        tracking: Address of the run in MLflow; empty: it is not tracked.
    """

    name: str
    recipe: str
    overrides: Sequence[str]
    settings: Mapping[str, str]
    steps_folder: Path
    steps: Sequence[Step]
    started: str
    tracking: str = ""

    def save(self, folder: Path) -> None:
        """Write the file."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "recipe": self.recipe,
            "overrides": list(self.overrides),
            "settings": dict(self.settings),
            "steps_folder": str(self.steps_folder),
            "started": self.started,
            "tracking": self.tracking,
            "steps": [step.document() for step in self.steps],
        }
        replace_atomically(folder / RELEASE_FILE, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "ReleaseFolder":
        """Read the file.

        Raises:
            UserError: There is none, or it is not of this release of brew360.
        """
        path = folder / RELEASE_FILE
        try:
            content = json.loads(path.read_text())
            if content["format_version"] != FORMAT_VERSION:
                raise ValueError(f"its format_version is {content['format_version']}, not {FORMAT_VERSION}")
            return cls(
                name=content["name"],
                recipe=content["recipe"],
                overrides=content["overrides"],
                settings=content["settings"],
                steps_folder=Path(content["steps_folder"]),
                steps=[Step.from_document(document) for document in content["steps"]],
                started=content["started"],
                tracking=content["tracking"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder} is not the folder of a release ({error}). Pass the folder that `brew360 release run` wrote."
            ) from error

    def output(self, name: str) -> Path | None:
        """Return the output of a step; None if the release does not have it."""
        return next((step.output for step in self.steps if step.name == name), None)

    def read_output(self, name: str) -> dict[str, Any]:
        """Return the JSON that a step wrote; empty if there is none yet."""
        path = self.output(name)
        if path is None:
            return {}
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def run_release(
    steps: Sequence[Step],
    runner: StepRunner,
    console: PlainConsole,
    *,
    name: str,
    on_change: Callable[[], None] = lambda: None,
) -> None:
    """Run the steps that have not finished, in their order.

    Args:
        steps: Of the release.
        runner: Runs their commands.
        console: Shows which step runs, and its output.
        name: Of the release.
        on_change: Called when a step starts or ends.

    Raises:
        StepFailed: A step failed; those after it did not start.
    """
    outputs = {step.name: step.output for step in steps}
    for number, step in enumerate(steps, 1):
        head = f"{name}: step {number} of {len(steps)}, {step.name}"
        step.folder.mkdir(parents=True, exist_ok=True)
        with _lock(step, console, head):
            record = read_record(step.record)
            if record is not None and record.finished and step.output.exists():
                console.print(f"{head}: done before ({duration(record.seconds)})", style="bold")
                continue
            arguments = _arguments(step, outputs)
            console.print(f"{head}: {shlex.join(['brew360', *arguments])}", style="bold", soft_wrap=True)
            on_change()
            try:
                seconds = _run_step(step, arguments, runner, console)
            except StepFailed as error:
                raise StepFailed(
                    f"step {step.name} of {name} failed: {error} Its log is {step.log}. Correct the cause and run the "
                    f"same command again: finished steps are kept."
                ) from error
            finally:
                on_change()
            console.print(f"{head}: {duration(seconds)}", style="bold")


def _run_step(step: Step, arguments: Sequence[str], runner: StepRunner, console: PlainConsole) -> float:
    """Run the command of a step, and keep its record; return the seconds of all attempts.

    Raises:
        StepFailed: The command failed; the message is its last error sentence.
        BrewError: The runner failed.
    """
    record = read_record(step.record)
    if record is not None and record.finished:  # somebody removed the output
        for file in (step.record, step.folder / JOB_FILE):
            file.unlink(missing_ok=True)
    (step.folder / _FAILED).unlink(missing_ok=True)
    written = step.log.stat().st_size if step.log.exists() else 0

    def run() -> int:
        if _has_complete_data(step):
            return 0
        return runner.run(_job(step, arguments), lambda text: _show(console, text))

    try:
        record, code = keep_record(step.record, step.key, run)
        if code:
            raise StepFailed(_reason(step, code, written))
    except BrewError as error:
        replace_atomically(step.folder / _FAILED, str(error))
        raise
    return record.seconds


def step_state(step: Step) -> StepState:
    """Read the state of a step."""
    record = read_record(step.record)
    if record is None:
        return StepState(name=step.name, state="running" if _is_locked(step) else "waiting", seconds=0.0)
    seconds = record.seconds
    if record.finished and step.output.exists():
        skipped = _skipped(step)
        return StepState(name=step.name, state="skipped" if skipped else "done", seconds=seconds, reason=skipped)
    if _is_locked(step):
        return StepState(name=step.name, state="running", seconds=seconds)
    try:
        return StepState(
            name=step.name, state="failed", seconds=seconds, reason=(step.folder / _FAILED).read_text().strip()
        )
    except OSError:
        return StepState(name=step.name, state="interrupted", seconds=seconds)


def changes(before: Sequence[Step], after: Sequence[Step]) -> list[Change]:
    """Return the steps of `after` that would run, and why.

    Args:
        before: The steps as the release was started last.
        after: The steps of the recipe as it is now.
    """
    earlier = {step.name: step for step in before}
    found = []
    reruns: set[str] = set()
    for step in after:
        reason = _why(step, earlier.get(step.name), reruns)
        if reason:
            reruns.add(step.name)
            found.append(Change(name=step.name, reason=reason))
    return found


def _why(step: Step, earlier: Step | None, reruns: set[str]) -> str:
    """Return why a step would run; empty if it would not."""
    state = step_state(step)
    if state.state in ("done", "skipped"):
        return ""
    if earlier is not None and earlier.key == step.key:
        return {"waiting": "it has not run yet", "failed": "it failed", "running": "it runs now"}.get(
            state.state, "it was interrupted"
        )
    if earlier is None:
        return "the recipe did not have it before"
    reasons = []
    added, removed = _different(step.command, earlier.command)
    if added or removed:
        reasons.append(f"{' '.join(removed) or 'nothing'} was replaced by {' '.join(added) or 'nothing'}")
    labels = [label for label in {**step.files, **earlier.files} if step.files.get(label) != earlier.files.get(label)]
    reasons += [f"{label} has other content" for label in labels]
    if names := [name for name in step.after if name in reruns]:
        reasons.append(f"it reads what {' and '.join(names)} write{'s' * (len(names) == 1)}")
    if not reasons:
        reasons.append("the steps that it reads are other ones")
    return "; ".join(reasons)


def _different(after: Sequence[str], before: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments of each that the other does not have."""
    return [text for text in after if text not in before], [text for text in before if text not in after]


def _arguments(step: Step, outputs: Mapping[str, Path]) -> list[str]:
    """Return the arguments with the folders of this release in place of their names, and write what they name."""
    values = {f"<{name}>": str(path) for name, path in outputs.items()}
    values |= {"<out>": str(step.output), "<folder>": str(step.folder)}
    if "<version>" in step.command:
        values["<version>"] = str(json.loads(outputs["publish"].read_text())["number"])
    if step.name == "publish":
        path = step.folder / _PUBLICATION
        with suppress(FileExistsError):
            create_exclusively(path, secrets.token_hex(16))
        values["<publication>"] = path.read_text()
    if step.gates:
        document = {"release": {"gates": [gate.document() for gate in step.gates]}}
        replace_atomically(step.folder / GATES_FILE, yaml.safe_dump(document, sort_keys=False))
    found = []
    for text in step.command:
        for token, value in values.items():
            text = text.replace(token, value)
        found.append(text)
    return found


def _job(step: Step, arguments: Sequence[str]) -> Job:
    # Threads that spin slow each other down beside other processes.
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} if step.name in TRAINING else {}
    return Job(name=step.name, arguments=arguments, environment=environment, folder=step.folder, log=step.log)


def _has_complete_data(step: Step) -> bool:
    """Return whether a data set was built, but not recorded: its command refuses a folder that is complete."""
    return step.name == "data" and (step.output / DATASET_FILE).is_file()


def _show(console: PlainConsole, text: str) -> None:
    for line in text.splitlines():
        if line.strip():
            console.print(f"  {line}", soft_wrap=True)


def _reason(step: Step, code: int, written: int) -> str:
    """Return the last error sentence in the log of a step, after the bytes that earlier attempts had written."""
    try:
        lines = step.log.read_bytes()[written:].decode(errors="replace").splitlines()
    except OSError:
        lines = []
    errors = [line for line in lines if line.startswith("error: ")]
    if errors and code > 0:
        return errors[-1].removeprefix("error: ")
    return f"its command was killed by signal {-code}." if code < 0 else f"its command ended with exit code {code}."


def _skipped(step: Step) -> str:
    """Return why a finished canary was skipped; empty if it was not."""
    if step.name != "canary":
        return ""
    try:
        content = json.loads(step.output.read_text())
    except (OSError, ValueError):
        return ""
    return str(content.get("reason", "")) if content.get("state") == "skipped" else ""


@contextmanager
def _lock(step: Step, console: PlainConsole, head: str) -> Iterator[None]:
    """Hold the lock of a step, so that releases that share it do not run it twice."""
    with (step.folder / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"{head}: another release runs it; waiting", style="bold")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_locked(step: Step) -> bool:
    try:
        with (step.folder / _LOCK).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
