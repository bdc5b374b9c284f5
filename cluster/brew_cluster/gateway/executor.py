"""Runs attempts of jobs on a cluster: the protocol, and its implementation with Ray Jobs."""

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from brew_cluster.gateway.signed import MetadataSigner
from brew_platform.errors import BrewError

__all__ = ["ClusterUnavailable", "ForeignRun", "JobExecutor", "RayJobExecutor", "Run", "RunState"]

_LOG = logging.getLogger("brew_cluster")


class ClusterUnavailable(BrewError):
    """The cluster does not answer, or it failed on the request. The state of its jobs is not known."""


class ForeignRun(BrewError):
    """The cluster has a job of this id that no gateway with this signing key submitted."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One attempt of a job, as the cluster sees it.

    Args:
        id: Equal for equal attempts, so that an attempt which is submitted twice runs once.
        entrypoint: The shell command.
        fields: What the metadata say, and the signature covers.
        environment: Environment variables.
        node_labels: Of the node that runs the entrypoint.
    """

    id: str
    entrypoint: str
    fields: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    node_labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What the cluster says about a run.

    Attributes:
        status: missing: the cluster does not know it; stopped: `stop` ended it, or kept it from starting.
        exit_code: Of the entrypoint, if it has ended by itself.
        ended: Unix time in seconds; None if it has not ended, or the cluster does not say.
        message: Why it failed.
    """

    status: Literal["missing", "active", "succeeded", "failed", "stopped"]
    exit_code: int | None = None
    ended: float | None = None
    message: str = ""


class JobExecutor(Protocol):
    """The protocol of a cluster that runs jobs.

    All methods raise ClusterUnavailable if the cluster does not answer; what they were to do may have happened.
    `submit`, `state` and `stop` raise ForeignRun.
    """

    def check(self) -> None:
        """Do nothing but find out whether the cluster answers."""

    def submit(self, run: Run) -> None:
        """Start a run. A run whose id was submitted before, or stopped before, is not started again."""

    def state(self, run: Run) -> RunState:
        """Return the state of a run."""

    def stop(self, run: Run) -> None:
        """Stop a run: SIGTERM, and after the grace time SIGKILL. A run that is missing will never start."""

    def logs(self, run: Run, offset: int) -> str:
        """Return the output of a run from a character on; empty if there is none yet or any more."""


_NO_RUN = "brew360-check"  # an id that no run has
_NEVER_STARTED = "brew360 stopped this job before it started"


class RayJobExecutor:
    """Runs attempts as Ray Jobs. Threads can share it.

    A Ray job is created only if its id is new, which makes `submit` and `stop` of a missing run exclusive: `stop`
    creates a Ray job of that id that does nothing.

    Args:
        address: Of Ray's dashboard, such as http://127.0.0.1:8265. With Ray's token authentication, the token comes
            from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.
        signer: Signs the metadata, and verifies those that are read back.
        stop_seconds: Between SIGTERM and SIGKILL.
    """

    def __init__(self, address: str, signer: MetadataSigner, *, stop_seconds: int) -> None:
        self._address, self._signer, self._stop_seconds = address, signer, stop_seconds
        self._client: Any = None
        self._lock = threading.Lock()

    def check(self) -> None:
        # unlike the request for Ray's version, this one needs the token
        self._call(lambda client: client.get_job_info(_NO_RUN), missing=None)

    def submit(self, run: Run) -> None:
        environment = {**run.environment, "RAY_JOB_STOP_WAIT_TIME_S": str(self._stop_seconds)}
        self._create(run, run.entrypoint, {"env_vars": environment}, run.node_labels)

    def state(self, run: Run) -> RunState:
        details = self._details(run)
        if details is None:
            return RunState(status="missing")
        status = str(getattr(details.status, "value", details.status))
        ended = details.end_time / 1_000 if details.end_time else None
        if details.entrypoint == _tombstone(run):
            return RunState(status="stopped", ended=ended)
        if status == "SUCCEEDED":
            return RunState(status="succeeded", exit_code=0, ended=ended)
        if status == "STOPPED":
            return RunState(status="stopped", ended=ended)
        if status == "FAILED":
            message = _short(details.message or "")
            return RunState(status="failed", exit_code=details.driver_exit_code, ended=ended, message=message)
        return RunState(status="active")

    def stop(self, run: Run) -> None:
        if self._details(run) is None:
            self._create(run, _tombstone(run), {}, {})
        elif self.state(run).status == "active":
            self._call(lambda client: client.stop_job(run.id))

    def logs(self, run: Run, offset: int) -> str:
        text = self._call(lambda client: client.get_job_logs(run.id), missing="")
        return str(text)[offset:]

    def _create(self, run: Run, entrypoint: str, runtime_env: dict[str, Any], labels: Mapping[str, str]) -> None:
        try:
            self._call(
                lambda client: client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=run.id,
                    runtime_env=runtime_env,
                    metadata=self._signer.sign(run.fields, entrypoint),
                    entrypoint_label_selector=dict(labels) or None,
                )
            )
        except ClusterUnavailable:
            if self._details(run) is None:  # Ray answers 500 if the id exists: the run was submitted before
                raise

    def _details(self, run: Run) -> Any:
        """Return Ray's record of a run, or None."""
        details = self._call(lambda client: client.get_job_info(run.id), missing=None)
        if details is None:
            return None
        fields = self._signer.verify(details.metadata or {}, details.entrypoint)
        if fields != dict(run.fields) or details.entrypoint not in (run.entrypoint, _tombstone(run)):
            raise ForeignRun(
                f"the cluster has a Ray job {run.id} that this gateway did not submit: its metadata have "
                f"{'another' if fields else 'no valid'} signature. Let only the gateway reach Ray's ports, and give "
                f"all gateways of the cluster one signing key and one ledger."
            )
        return details

    def _call(self, function: Any, **missing: Any) -> Any:
        """Call Ray's client; return `missing` if it answers 404."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            with self._lock:
                if self._client is None:
                    self._client = _connect(self._address)
            return function(self._client)
        except AuthenticationError as error:
            raise ClusterUnavailable(
                f"Ray at {self._address} refuses the gateway's token; set RAY_AUTH_TOKEN_PATH to the cluster's token."
            ) from error
        except (RuntimeError, ConnectionError, OSError, requests.RequestException) as error:
            if missing and "status code 404" in str(error):
                return missing["missing"]
            raise ClusterUnavailable(
                f"Ray at {self._address} does not answer as it should: {_short(str(error))}. Check ray_address and the "
                f"head node."
            ) from error


def _tombstone(run: Run) -> str:
    """The entrypoint that keeps a run from starting."""
    return f"echo '{_NEVER_STARTED}: {run.id}'"


def _connect(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # Ray would prefer them to the address
        if name in os.environ and os.environ[name] != address:
            _LOG.warning("%s is ignored: the job gateway uses ray_address=%s", name, address)
            del os.environ[name]
    return JobSubmissionClient(address)


def _short(text: str) -> str:
    """The end of a message in one line; Ray's messages contain tracebacks and logs."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return " ".join(lines[-3:])[-400:].rstrip(".") if lines else "no message"
