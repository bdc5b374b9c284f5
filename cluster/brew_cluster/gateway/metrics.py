"""Prometheus metrics of the job gateway. All follow from the ledger, so they survive restarts."""

import math
from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from brew_cluster.gateway.ledger import Ledger
from brew_cluster.gateway.spec import ENDED
from brew_cluster.gateway.state import WAIT_BOUNDS, LedgerState, month_of
from brew_platform.identity.keys import Team

__all__ = ["render_metrics"]


def render_metrics(ledger: Ledger, teams: Mapping[str, Team], *, follows_cluster: bool) -> bytes:
    """Return the metrics in Prometheus' text format.

    Args:
        ledger: The ledger.
        teams: The teams by name, for their quotas.
        follows_cluster: Whether the last look at the cluster succeeded.
    """
    registry = CollectorRegistry()
    metrics = ledger.read(lambda state, now: list(_collect(state, teams, now, follows_cluster)))
    registry.register(_Fixed(metrics))
    return generate_latest(registry)


class _Fixed(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def _collect(state: LedgerState, teams: Mapping[str, Team], now: float, follows_cluster: bool) -> Iterator[Metric]:
    jobs = state.open_jobs()
    names = sorted({*teams, *state.teams} - {""})
    month = month_of(now)

    def gauge(name: str, text: str, values: Mapping[str, float]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"brew360_jobs_{name}", text, labels=["team"])
        for team, value in values.items():
            family.add_metric([team], value)
        return family

    def counter(name: str, text: str, values: Mapping[str, float]) -> CounterMetricFamily:
        family = CounterMetricFamily(f"brew360_jobs_{name}", text, labels=["team"])
        for team, value in values.items():
            family.add_metric([team], value)
        return family

    queued = {team: [job for job in jobs if job.team == team and job.state == "queued"] for team in names}
    yield gauge("queued", "Jobs in the queue", {team: len(found) for team, found in queued.items()})
    yield gauge(
        "oldest_queued_seconds",
        "Age of the oldest job in the queue",
        {team: max((now - job.accepted for job in found), default=0.0) for team, found in queued.items()},
    )
    yield gauge(
        "running",
        "Jobs that hold resources of the cluster",
        {team: sum(job.team == team and job.is_active for job in jobs) for team in names},
    )
    yield gauge("running_gpus", "GPUs of running jobs", {team: state.active_gpus(team) for team in names})
    yield gauge(
        "month_gpu_seconds", "GPU-seconds of this month", {team: state.gpu_seconds(team, month, now) for team in names}
    )
    limits = {name: team.gpu_hours_per_month for name, team in sorted(teams.items())}
    yield gauge(
        "quota_month_gpu_seconds",
        "Quota of a month, of teams that have one",
        {name: 3_600 * limit for name, limit in limits.items() if limit is not None},
    )
    yield gauge(
        "quota_gpus",
        "Quota of GPUs at a time, of teams that have one",
        {name: team.concurrent_gpus for name, team in sorted(teams.items()) if team.concurrent_gpus is not None},
    )
    records = {team: state.teams[team] for team in names if team in state.teams}
    refused = CounterMetricFamily("brew360_jobs_refused", "Requests that were refused", labels=["team", "reason"])
    for team, found in state.teams.items():
        for reason, count in sorted(found.refused.items()):
            refused.add_metric([team, reason], count)
    yield refused
    waits = HistogramMetricFamily(
        "brew360_jobs_wait_seconds", "Time in the queue before the first start", labels=["team"]
    )
    for team, found in records.items():
        counts = accumulate(found.waits[bound] for bound in WAIT_BOUNDS)
        buckets = [
            ("+Inf" if bound == math.inf else str(bound), count)
            for bound, count in zip(WAIT_BOUNDS, counts, strict=True)
        ]
        waits.add_metric([team], buckets, found.wait_seconds)
    yield waits
    yield counter(
        "preempted", "Attempts that were preempted", {team: found.preempted for team, found in records.items()}
    )
    ended = CounterMetricFamily("brew360_jobs_ended", "Jobs that have ended", labels=["team", "state"])
    for team, found in records.items():
        for final in ENDED:
            ended.add_metric([team, final], found.ended[final])
    yield ended
    yield GaugeMetricFamily(
        "brew360_jobs_follows_cluster", "1 if the last look at the cluster succeeded", value=float(follows_cluster)
    )
