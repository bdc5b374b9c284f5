"""Where the commands of steps run: on this machine, as Ray jobs, or as jobs of a gateway."""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from brew_cluster.gateway.client import JobClient
from brew_cluster.gateway.spec import JobSpec
from brew_cluster.releases.config import COMMANDS, TRAINING
from brew_platform.errors import BrewError, UserError
from brew_platform.files import replace_atomically
from brew_platform.tracing import current_span

__all__ = ["GatewayRunner", "Job", "LocalRunner", "RayJobsRunner", "StepRunner", "require_shared_folder"]

JOB_FILE = "job.txt"  # in the folder of a step: the id of its job, so that a release that was killed finds it again
_POLL_SECONDS = 1.0
_PATIENCE_SECONDS = 120.0  # without an answer of the cluster


@dataclass(frozen=True, kw_only=True)
class Job:
    """The command of a step.

    Args:
        name: Of the step.
        arguments: Of brew360.
        environment: Variables to set.
        folder: Of the step.
        log: Receives the output of the command, below what is there.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path


class StepRunner(Protocol):
    """Runs the command of a step."""

    def run(self, job: Job, on_output: Callable[[str], None]) -> int:
        """Run a command, or wait for one that an interrupted release started; return its exit code.

        Raises:
            BrewError: The cluster or the gateway does not answer.
        """


def _trace_environment() -> dict[str, str]:
    """Return the variable by which the spans of a command belong to the current one; empty without tracing."""
    traceparent = current_span().traceparent
    return {"TRACEPARENT": traceparent} if traceparent else {}


class LocalRunner:
    """Runs commands as processes of this machine, each in its own session."""

    def __init__(self, program: Sequence[str] | None = None) -> None:
        self._program = list(program or [str(Path(sys.executable).parent / "brew360")])

    def run(self, job: Job, on_output: Callable[[str], None]) -> int:
        with job.log.open("ab") as log, job.log.open("r", errors="replace") as output:
            output.seek(0, os.SEEK_END)
            with subprocess.Popen(
                [*self._program, *job.arguments],
                env={**os.environ, **job.environment, **_trace_environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process:
                try:
                    while process.poll() is None:
                        on_output(output.read())
                        with suppress(subprocess.TimeoutExpired):
                            process.wait(timeout=0.2)
                except KeyboardInterrupt:
                    process.terminate()  # the command stops what it started
                    process.wait()
                    raise
            on_output(output.read())
            return process.returncode


class RayJobsRunner:
    """Runs commands as Ray jobs.

    Args:
        address: Of the cluster's dashboard, such as http://head:8265.
        client: In place of a `ray.job_submission.JobSubmissionClient`; for tests.
    """

    def __init__(self, address: str, *, client: Any = None) -> None:
        self.address = address
        if client is None:
            from ray.job_submission import JobSubmissionClient

            for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # Ray prefers them to the address
                os.environ.pop(name, None)
            try:
                client = JobSubmissionClient(address)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise BrewError(
                    f"no Ray cluster takes jobs at {address} ({str(error).splitlines()[0]}). Give the address of its "
                    f"dashboard, such as http://head:8265."
                ) from error
        self._client = client

    def run(self, job: Job, on_output: Callable[[str], None]) -> int:
        id_ = _read_id(job)
        if id_ is None or self._state(id_) in ("FAILED", "STOPPED", None):
            id_ = f"brew360-{job.name}-{uuid.uuid4().hex[:12]}"
            _write_id(job, id_)  # before the submission: a job that this process starts is never lost
            entrypoint, metadata = _entrypoint(job), {"brew360_step": job.folder.name}
            self._client.submit_job(entrypoint=entrypoint, submission_id=id_, metadata=metadata)
        printed = 0
        try:
            while True:
                state = self._state(id_)
                log = self._repeat(lambda: self._client.get_job_logs(id_)) or ""
                if len(log) > printed:
                    on_output(log[printed:])
                    _append(job.log, log[printed:])
                    printed = len(log)
                if state in ("SUCCEEDED", "FAILED", "STOPPED", None):
                    return 0 if state == "SUCCEEDED" else 1
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            self._client.stop_job(id_)
            raise

    def _state(self, id_: str) -> str | None:
        """Return the state of a job; None if the cluster does not know it."""
        try:
            return str(self._repeat(lambda: self._client.get_job_status(id_)).value)
        except RuntimeError:  # of the client: the job does not exist
            return None

    def _repeat(self, call: Callable[[], Any]) -> Any:
        """Repeat a call while the dashboard does not answer, as during a restart of the head node."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return call()
            except OSError as error:  # of requests and of Ray's client
                if time.monotonic() > deadline:
                    raise BrewError(
                        f"the Ray cluster at {self.address} has not answered for {_PATIENCE_SECONDS:g} s. Its jobs may "
                        f"still run; run the same command again when it answers."
                    ) from error
            time.sleep(_POLL_SECONDS)


class GatewayRunner:
    """Runs commands as jobs of a gateway, under the quota of a team.

    Args:
        client: Of the gateway.
        gpus: Of each training step, which the quota counts.
    """

    def __init__(self, client: JobClient, *, gpus: int = 0) -> None:
        self._client, self._gpus = client, gpus

    def run(self, job: Job, on_output: Callable[[str], None]) -> int:
        attempt = _read_id(job)
        state = None
        if attempt is not None:
            state = self._client.show(attempt)
        if state is None or state.state in ("failed", "cancelled"):
            gpus = self._gpus if job.name in TRAINING else 0
            retries = 2 if job.name in COMMANDS else 0  # a gate that refuses a version refuses it again
            spec = JobSpec(
                kind="entrypoint", entrypoint=_entrypoint(job), name=job.folder.name, gpus=gpus, retries=retries
            )
            # A submission that is repeated after this process was killed is the same job.
            earlier = attempt or ""
            request = hashlib.sha256(f"{job.folder} {earlier}".encode()).hexdigest()[:32]
            attempt = self._client.submit(spec, request_id=request)
            _write_id(job, attempt)
        assert attempt is not None
        try:
            for text in self._client.logs(attempt, follow=True):
                on_output(text)
                _append(job.log, text)
            return 0 if self._client.wait(attempt).state == "succeeded" else 1
        except KeyboardInterrupt:
            self._client.cancel(attempt)
            raise


def require_shared_folder(runner: StepRunner, folder: Path) -> None:
    """Check that jobs see the folder of the steps and the working directory of this command.

    Steps read each other's output from this folder, so it is a file system that all nodes mount under the same path.
    The registry can be on S3.

    Raises:
        UserError: A job does not see one of the folders.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{uuid.uuid4().hex}"
    replace_atomically(probe, "")
    scratch = folder / ".probes" / probe.name.removeprefix(".")  # its name is that of the job
    scratch.mkdir(parents=True)
    try:
        check = _Check(name="probe", arguments=[], environment={}, folder=scratch, log=scratch / "log.txt", path=probe)
        if runner.run(check, lambda text: None) != 0:
            raise UserError(
                f"a job on the cluster does not see {folder}, or not {Path.cwd()}. Steps exchange their data, "
                f"checkpoints and models through this folder. Give --steps a folder that all nodes mount under the "
                f"same path (NFS, Lustre, EFS), and run this command in another such folder. An s3:// address cannot "
                f"take its place; the registry can be on s3://."
            )
    finally:
        probe.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class _Check(Job):
    """A job that looks for a file."""

    path: Path


def _entrypoint(job: Job) -> str:
    """Return the shell command of a job; it runs in this command's working directory, with the cluster's brew360."""
    words = ["test", "-f", str(job.path)] if isinstance(job, _Check) else ["brew360", *job.arguments]
    variables = [f"{name}={shlex.quote(value)}" for name, value in job.environment.items()]
    command = " ".join([*variables, shlex.join(words)])
    return f"cd {shlex.quote(str(Path.cwd()))} && {command}"


def _read_id(job: Job) -> str | None:
    try:
        return (job.folder / JOB_FILE).read_text().strip() or None
    except OSError:
        return None


def _write_id(job: Job, id_: str) -> None:
    replace_atomically(job.folder / JOB_FILE, f"{id_}\n")


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)
