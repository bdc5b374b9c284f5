"""The client of the job gateway."""

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from brew_cluster.gateway.spec import ENDED, JobSpec, JobState, LogPart, Submission, TeamUsage
from brew_platform.errors import BrewError, UserError
from brew_platform.tracing import current_span
from brew_serve.client.errors import error_of, retry_after_of
from brew_serve.client.methods import http_options

__all__ = ["JobClient"]

ModelT = TypeVar("ModelT", bound=BaseModel)


class JobClient:
    """A blocking client. Close it, or use it as a context manager. Threads can share it.

    A call is repeated while the gateway does not answer, for example because it restarts. A submission that is repeated
    is still one job.

    Args:
        base_url: Address of the gateway, such as http://127.0.0.1:8360.
        api_key: API key of a team with the scope `jobs`.
        timeout_seconds: Timeout of each attempt of a call.
        patience_seconds: How long a call is repeated while the gateway does not answer.
        transport: Transport of httpx; for tests.
        sleep: Waits for a number of seconds; for tests.
        on_wait: Called with the failure before a call is repeated for the first time.

    Raises:
        UserError: `base_url` is not a URL of HTTP, or `api_key` cannot be a key.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 30.0,
        patience_seconds: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        on_wait: Callable[[BrewError], None] = lambda failure: None,
    ) -> None:
        self._http = httpx.Client(**http_options(base_url, api_key, timeout_seconds), transport=transport)
        self._patience, self._sleep, self._on_wait = patience_seconds, sleep, on_wait

    def submit(self, job: JobSpec, *, request_id: str | None = None) -> str:
        """Submit a job and return its id.

        Args:
            job: The job.
            request_id: 16 to 64 letters, digits, `_` and `-`. The same id again returns the same job, also from another
                process. None: a random one.

        Raises:
            UserError: The job is invalid, or it would exceed a quota of the team; the message says which.
            BrewError: The gateway does not answer.
        """
        submission = Submission(job=job, request_id=request_id or secrets.token_hex(16))
        return self._send("POST", "/v1/jobs", JobState, body=submission.model_dump(mode="json")).id

    def show(self, job: str) -> JobState:
        """Return the state of a job.

        Raises:
            UserError: The team has no such job.
            BrewError: The gateway does not answer.
        """
        return self._send("GET", f"/v1/jobs/{quote(job, safe='')}", JobState)

    def jobs(self, *, all_teams: bool = False, ended: bool = False) -> list[JobState]:
        """Return the team's jobs, the newest first.

        Args:
            all_teams: Of all teams; for the scope `admin`.
            ended: Also those that have ended.
        """
        query = f"?all_teams={str(all_teams).lower()}&ended={str(ended).lower()}"
        return self._parse(TypeAdapter(list[JobState]), self._request("GET", f"/v1/jobs{query}"))

    def cancel(self, job: str) -> JobState:
        """Cancel a job: it leaves the queue, or is stopped. A job that has ended stays as it is.

        Raises:
            UserError: The team has no such job.
            BrewError: The gateway does not answer.
        """
        return self._send("POST", f"/v1/jobs/{quote(job, safe='')}/cancel", JobState)

    def usage(self) -> TeamUsage:
        """Return what the team uses, and its quotas."""
        return self._send("GET", "/v1/usage", TeamUsage)

    def audit(self, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the events of the ledger after a number, oldest first; for the scope `admin`.

        Raises:
            UserError: The key does not have the scope.
            BrewError: The gateway does not answer.
        """
        while events := self._parse(
            TypeAdapter(list[dict[str, Any]]), self._request("GET", f"/v1/audit?after={after}")
        ):
            yield from events
            after = events[-1]["number"]

    def log_part(self, job: str, *, attempt: int, offset: int) -> LogPart:
        """Return the log of an attempt from a character on.

        Args:
            job: Id of the job.
            attempt: From 1.
            offset: Characters to leave out.
        """
        return self._send("GET", f"/v1/jobs/{quote(job, safe='')}/logs?attempt={attempt}&offset={offset}", LogPart)

    def logs(self, job: str, *, follow: bool = False, poll_seconds: float = 1.0) -> Iterator[str]:
        """Yield the log of all attempts, in parts.

        Args:
            job: Id of the job.
            follow: Wait for more until the job has ended.
            poll_seconds: Between two calls that follow.

        Raises:
            UserError: The team has no such job.
            BrewError: The gateway does not answer.
        """
        attempt, offset = 1, 0
        while True:
            part = self.log_part(job, attempt=attempt, offset=offset)
            if part.text:
                yield part.text
            offset += len(part.text)
            if attempt < part.attempts and part.is_complete:
                attempt, offset = attempt + 1, 0
            elif not follow or (part.state in ENDED and (part.is_complete or not part.attempts)):
                return
            else:
                self._sleep(poll_seconds)

    def wait(self, job: str, *, poll_seconds: float = 2.0, timeout_seconds: float | None = None) -> JobState:
        """Wait until the job has ended, and return its state.

        Raises:
            UserError: The team has no such job.
            BrewError: The gateway does not answer, or the time is up.
        """
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not (state := self.show(job)).has_ended:
            if end is not None and time.monotonic() > end:
                raise BrewError(f"{job} is still {state.state} after {timeout_seconds:g} s; wait longer, or cancel it.")
            self._sleep(poll_seconds)
        return state

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> "JobClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, method: str, path: str, model: type[ModelT], *, body: Any = None) -> ModelT:
        return self._parse(TypeAdapter(model), self._request(method, path, body=body))

    def _parse(self, adapter: TypeAdapter[Any], response: httpx.Response) -> Any:
        try:
            return adapter.validate_json(response.content)
        except ValidationError as error:
            raise BrewError(
                f"the response of {response.url} is not that of a job gateway: {response.text[:200]!r}. Check that a "
                f"gateway of the client's release listens there."
            ) from error

    def _request(self, method: str, path: str, *, body: Any = None) -> httpx.Response:
        wait, waited = 0.5, 0.0
        while True:
            try:
                response = self._http.request(method, path, json=body, headers=_trace_headers())
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                failure = BrewError(
                    f"the job gateway at {self._http.base_url} does not answer ({type(error).__name__}: {error}). Check"
                    f" the address (--url or BREW360_JOBS_URL), and that `brew360 jobs serve` runs there."
                )
                failure.__cause__ = error
            else:
                if response.is_success:
                    return response
                if response.status_code not in (502, 503, 504):
                    raise _error_of(response)
                failure = _error_of(response)
            if waited >= self._patience:
                raise failure
            if not waited:
                self._on_wait(failure)
            self._sleep(wait)
            waited, wait = waited + wait, min(2 * wait, 8.0)


def _trace_headers() -> dict[str, str]:
    traceparent = current_span().traceparent
    return {"traceparent": traceparent} if traceparent else {}


def _error_of(response: httpx.Response) -> BrewError:
    error = error_of(response, retry_after_of(response))
    return error if isinstance(error, UserError) or not response.is_client_error else UserError(str(error))
