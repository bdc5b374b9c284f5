"""Prometheus metrics of the version controller: the versions that serve, and the registry's log that it follows.

| metric | labels | |
|---|---|---|
| brew_version_up | version, role | 1 if the version answers requests, 0 if it starts, is down or is removed |
| brew_version_replicas | version, role | its replicas that answer |
| brew_registry_events_total | kind | events of the registry's log |
| brew_registry_read_timestamp_seconds | | when the registry's log was last read, in seconds since 1970; 0: never |
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from brew_platform.registry.events import KINDS, Event
from brew_serve.schemas.status import FleetStatus

__all__ = ["FleetCollector"]


class FleetCollector(Collector):
    """Computes the metrics when they are read.

    Args:
        status: Returns the versions that serve.
        events: Returns the registry's log, as it was last read; None before. Zeros would look like a reset of counters.
        read_at: Returns when that was, in seconds since 1970.
    """

    def __init__(
        self,
        status: Callable[[], FleetStatus],
        events: Callable[[], Sequence[Event] | None],
        read_at: Callable[[], float],
    ) -> None:
        self._status, self._events, self._read_at = status, events, read_at

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("brew_version_up", "The version answers requests", labels=["version", "role"])
        replicas = GaugeMetricFamily("brew_version_replicas", "Replicas that answer", labels=["version", "role"])
        for version in self._status().versions:
            labels = [str(version.version), version.role]
            up.add_metric(labels, version.state == "up")
            replicas.add_metric(labels, version.replicas)
        yield up
        yield replicas
        log = self._events()
        if log is not None:
            events = CounterMetricFamily("brew_registry_events", "Events of the registry's log", labels=["kind"])
            counts = Counter(event.kind for event in log)
            for kind in KINDS:
                events.add_metric([kind], counts[kind])
            yield events
        name = "brew_registry_read_timestamp_seconds"
        yield GaugeMetricFamily(name, "When the registry's log was last read", value=self._read_at())

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)
