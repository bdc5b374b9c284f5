"""Tries a version with a share of a running service's traffic, before it is promoted.

The registry's alias `canary` gives the version its share. Requests whose routing keys belong to this share are sent to
the service; the version must answer them. Then the canary ends, whether it passed or not.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, cycle, islice
from pathlib import Path
from typing import Literal

import httpx

from brew_cluster.jobs.demo_slates import choose_slates
from brew_cluster.releases.config import CanarySettings
from brew_data.data_folder import DataFolder
from brew_platform.errors import BrewError
from brew_platform.files import replace_atomically
from brew_platform.registry.registry import Registry
from brew_serve.client.sync_client import RankClient
from brew_serve.http.routing_hints import is_in_share, read_routing_hints
from brew_serve.schemas.status import FleetStatus, VersionStatus

__all__ = ["CanaryReport", "run_canary"]

FORMAT_VERSION = 1
_POLL_SECONDS = 1.0
_ROUTES_SECONDS = 10.0  # until all gateways, which fetch the routes every second, send requests to a new version
_KEPT_REASONS = 5


@dataclass(frozen=True, kw_only=True)
class CanaryReport:
    """The outcome of a canary."""

    state: Literal["passed", "failed", "skipped"]
    version: int
    reason: str = ""  # why it failed or was skipped
    requests: int = 0
    failed: int = 0  # requests that the version did not answer
    p50_ms: float | None = None
    p99_ms: float | None = None
    failures: tuple[str, ...] = ()  # of the first requests that failed

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(path, json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1) + "\n")


@dataclass(frozen=True, kw_only=True)
class _Request:
    task: str
    member_id: str
    candidates: Sequence[str]
    routing_key: str


def run_canary(
    settings: CanarySettings,
    registry: Registry,
    number: int,
    data: DataFolder,
    client: RankClient | None,
    *,
    author: str,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> CanaryReport:
    """Give a version a share of the traffic, send requests, judge its responses, and end the canary.

    Args:
        settings: Of the canary.
        registry: Has the version; the service follows it.
        number: The version.
        data: Members and candidates of the requests are from its interactions after the cut.
        client: Of the service; None: none runs.
        author: For the log of the registry.
        clock: Seconds.
        sleep: Waits for a number of seconds.

    Returns:
        The report. It is `skipped` if no service answers and none is required, or if the service has no version in
        production beside which another could be tried.

    Raises:
        RegistryError: The version does not exist, or cannot be a canary.
        BrewError: No service answers, and one is required.
    """
    reason = _why_skipped(settings, registry, number, client)
    if client is None or reason:
        if settings.required:
            raise BrewError(
                f"the canary of version {number} is required, but {reason} Start the service, and try again."
            )
        return CanaryReport(state="skipped", version=number, reason=reason)
    registry.append("canary", number, author=author, share=settings.share, note="release")
    note = "interrupted"
    try:
        report = _try(settings, number, data, client, clock, sleep)
        note = report.reason or "passed"
    except BrewError as error:
        note = str(error)
        report = CanaryReport(state="failed", version=number, reason=note)
    finally:
        registry.append("canary", number, author=author, share=0.0, note=note)
    return report


def _why_skipped(settings: CanarySettings, registry: Registry, number: int, client: RankClient | None) -> str:
    """Return why there is nothing to try the version on; empty if there is a service."""
    if client is None or settings.url is None:
        return "no service runs: canary.url is not set."
    try:
        status = client.status()
    except BrewError as error:
        if not isinstance(error.__cause__, httpx.TransportError):
            raise
        return f"no service answers at {settings.url}."
    if status.model != registry.model:
        raise BrewError(
            f"the service at {settings.url} serves the model {status.model}, not {registry.model}. Give the address of "
            f"a service of this model."
        )
    if not any(version.role == "production" and version.state == "up" for version in status.versions):
        return f"the service at {settings.url} has no version in production that answers."
    if (found := _find(status, number)) is not None and found.role == "production":
        return f"the service at {settings.url} has version {number} in production already."
    return ""


def _try(
    settings: CanarySettings,
    number: int,
    data: DataFolder,
    client: RankClient,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> CanaryReport:
    """Wait until the service has the canary, send the requests, and judge."""
    deadline = clock() + settings.start_seconds
    while not ((found := _find(client.status(), number)) and (found.role, found.state) == ("canary", "up")):
        if found is not None and found.state == "failed":
            return CanaryReport(state="failed", version=number, reason=f"the service could not start version {number}.")
        if clock() > deadline:
            where = "not among the service's versions" if found is None else found.state
            why = f"version {number} was {where} after {settings.start_seconds:g} s."
            return CanaryReport(state="failed", version=number, reason=why)
        sleep(_POLL_SECONDS)
    sleep(_ROUTES_SECONDS)
    milliseconds: list[float] = []
    failures: list[str] = []
    requests = list(islice(_requests(data, settings), settings.requests))
    for request in requests:
        start = clock()
        try:
            ranking = client.rank(**asdict(request))
        except BrewError as error:
            failures.append(str(error))
            continue
        milliseconds.append(1_000 * (clock() - start))
        if ranking.version != number:
            failures.append(f"version {ranking.version} answered in its place")
    report = _judge(settings, number, len(requests), failures, milliseconds)
    until = clock() + settings.watch_seconds
    while report.state == "passed" and clock() < until:
        sleep(_POLL_SECONDS)
        found = _find(client.status(), number)
        if found is None or found.state != "up":
            gone = "gone" if found is None else found.state
            why = f"version {number} was {gone} while it had {settings.share:.3g} of the traffic."
            return CanaryReport(**{**asdict(report), "state": "failed", "reason": why})
    return report


def _judge(
    settings: CanarySettings, number: int, requests: int, failures: Sequence[str], milliseconds: Sequence[float]
) -> CanaryReport:
    share = len(failures) / requests if requests else 1.0
    p99 = _percentile(milliseconds, 0.99)
    reason = ""
    if not requests:
        reason = "the data have no member with interactions after the cut, so that no request was sent."
    elif share > settings.max_failed:
        reason = (
            f"version {number} did not answer {len(failures)} of {requests} requests (max_failed is "
            f"{settings.max_failed:g}), first: {failures[0].rstrip('.')}."
        )
    elif settings.max_p99_ms is not None and (p99 is None or p99 > settings.max_p99_ms):
        measured = "not measured" if p99 is None else f"{p99:.0f} ms"
        reason = f"the 99th percentile of {requests} requests is {measured} (max_p99_ms is {settings.max_p99_ms:g})."
    return CanaryReport(
        state="failed" if reason else "passed",
        version=number,
        reason=reason,
        requests=requests,
        failed=len(failures),
        p50_ms=_percentile(milliseconds, 0.5),
        p99_ms=p99,
        failures=tuple(failures[:_KEPT_REASONS]),
    )


def _requests(data: DataFolder, settings: CanarySettings) -> Iterator[_Request]:
    """Yield requests for ever, each with another routing key in the canary's share; none without members."""
    slates = choose_slates(
        data.tables(), data.bundle().suite, data.info.split, count=settings.requests, size=settings.candidates
    )
    keys = (key for number in count() if _is_canary(key := f"canary-{number}", settings.share))
    for slate, key in zip(cycle(slates), keys, strict=False):
        yield _Request(task=slate.task, member_id=slate.member_id, candidates=slate.candidates, routing_key=key)


def _is_canary(routing_key: str, share: float) -> bool:
    hints = read_routing_hints(json.dumps({"routing_key": routing_key}).encode())
    return is_in_share(hints.key, "canary", share)


def _find(status: FleetStatus, number: int) -> VersionStatus | None:
    return next((version for version in status.versions if version.version == number), None)


def _percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that a share of the values does not exceed; None of no values."""
    if not values:
        return None
    return round(sorted(values)[max(0, math.ceil(share * len(values)) - 1)], 2)
