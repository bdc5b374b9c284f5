"""Prometheus metrics of the nearline service, computed from the outbox when they are read.

| metric | labels | |
|---|---|---|
| brew_nearline_jobs | state | jobs that are accepted, enqueued (sent to a consumer), or dead |
| brew_nearline_oldest_seconds | | age of the oldest job that is accepted or enqueued; 0 if there is none |
| brew_nearline_degraded | | 1 while the store or the queue does not answer, and events wait in the outbox |
"""

import time
from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from brew_serve.nearline.outbox import Backlog
from brew_serve.stores.sqlite_file import Unavailable

__all__ = ["NearlineCollector"]


class NearlineCollector(Collector):
    """Reads the backlog for each scrape; while it cannot be read, only `brew_nearline_degraded` is reported.

    Args:
        backlog: Returns the jobs that are not done; raises Unavailable.
        problem: Returns why jobs are not sent now; empty if they are.
        clock: Returns seconds since 1970.
    """

    def __init__(
        self, backlog: Callable[[], Backlog], problem: Callable[[], str], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._backlog, self._problem, self._clock = backlog, problem, clock

    def collect(self) -> Iterator[GaugeMetricFamily]:
        degraded = bool(self._problem())
        try:
            backlog = self._backlog()
        except Unavailable:
            degraded = True
        else:
            jobs = GaugeMetricFamily("brew_nearline_jobs", "Jobs that are not done", labels=["state"])
            for state, count in backlog.jobs.items():
                jobs.add_metric([state], count)
            yield jobs
            age = 0.0 if backlog.oldest is None else max(0.0, self._clock() - backlog.oldest / 1e6)
            yield GaugeMetricFamily("brew_nearline_oldest_seconds", "Age of the oldest open job", value=age)
        yield GaugeMetricFamily("brew_nearline_degraded", "Store or queue does not answer", value=degraded)
