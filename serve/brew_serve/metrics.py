"""Prometheus metrics of one process: a gateway, a replica, or both in one.

| metric | labels | |
|---|---|---|
| brew_requests_total | route, status, team | answered requests |
| brew_request_seconds | route | from arrival to the last byte of the answer |
| brew_stage_seconds | stage | quota (Redis), queue (both in a gateway), receive, prepare, score or generate, answer |
| brew_waiting_requests | team | requests that wait in a gateway for their turn |
| brew_items_total | task, version | candidates scored |
| brew_score | task, version | distribution of their scores |
| brew_invalid_total | version | requests whose numbers were not probabilities, such as NaN |
| brew_unscored_total | task | candidates that a deadline left unscored |
| brew_shed_total | reason | refused by admission (limit, deadline, compilation), a quota (quota, rate), or queue |
| brew_quota_fallbacks_total | | requests whose quota this gateway counted alone, because Redis was down or slow |
| brew_engine_tokens_total | kind | prompt tokens of the engine's calls: computed, or cached (from the prefix cache) |
| brew_engine_prompts_total | | the engine's calls |
| brew_engine_fallbacks_total | | 1 if packed passes failed their self-check, so that vLLM's scheduler computes scores |
| brew_outstanding_tokens, brew_outstanding_requests | | the queue: predicted work that is not finished |
| brew_tokens_per_second | | admission's estimate of the engine's rate |
| brew_lost_total | version | requests that the version did not answer; for a canary, production answers them |
| brew_shadow_total | version, outcome | requests copied to a shadow: compared, refused, lost, or dropped as too many |
| brew_shadow_difference | version | of a candidate's score, from the one that was answered |
| brew_answer_rows_total | outcome | candidates in the log of answers: written, or dropped |

`brew_serve.nearline.metrics` and `brew_serve.deployment.fleet_metrics` have those of the nearline service and of the
version controller. `Meters` renders the metrics of one process as text, and `merged` combines the texts of many
processes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from brew_serve.engines.base import EngineUsage

__all__ = ["Meters", "merged"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SCORES = tuple(n / 20 for n in range(1, 20))
_DIFFERENCES = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


class Meters:
    """The metrics of one process, in a registry of their own.

    Args:
        usage: Returns the work of the engine so far; called when the metrics are read. None without an engine.
    """

    def __init__(self, usage: Callable[[], EngineUsage] | None = None) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("brew_requests", "Answered requests", ["route", "status", "team"], registry=registry)
        self.request_seconds = Histogram(
            "brew_request_seconds", "Arrival to last byte", ["route"], buckets=_SECONDS, registry=registry
        )
        self.stage_seconds = Histogram(
            "brew_stage_seconds", "Time in a stage", ["stage"], buckets=_SECONDS, registry=registry
        )
        self.waiting = Gauge("brew_waiting_requests", "Requests that wait in a gateway", ["team"], registry=registry)
        self.items = Counter("brew_items", "Candidates scored", ["task", "version"], registry=registry)
        self.score = Histogram("brew_score", "Scores", ["task", "version"], buckets=_SCORES, registry=registry)
        self.invalid = Counter("brew_invalid", "Requests with invalid numbers", ["version"], registry=registry)
        self.unscored = Counter("brew_unscored", "Candidates a deadline left unscored", ["task"], registry=registry)
        self.shed = Counter("brew_shed", "Requests refused by admission or quota", ["reason"], registry=registry)
        self.quota_fallbacks = Counter("brew_quota_fallbacks", "Requests counted without Redis", registry=registry)
        self.outstanding_tokens = Gauge("brew_outstanding_tokens", "Predicted tokens not finished", registry=registry)
        self.outstanding_requests = Gauge("brew_outstanding_requests", "Requests not finished", registry=registry)
        self.tokens_per_second = Gauge("brew_tokens_per_second", "Estimated rate of the engine", registry=registry)
        self.lost = Counter("brew_lost", "Requests that the version did not answer", ["version"], registry=registry)
        self.shadow = Counter("brew_shadow", "Requests copied to a shadow", ["version", "outcome"], registry=registry)
        self.shadow_difference = Histogram(
            "brew_shadow_difference", "Score differences", ["version"], buckets=_DIFFERENCES, registry=registry
        )
        self.answer_rows = Counter("brew_answer_rows", "Candidates for the answer log", ["outcome"], registry=registry)
        if usage is not None:
            registry.register(_EngineCollector(usage))

    def add(self, collector: Collector) -> None:
        """Report further metrics, which `collector` computes when they are read."""
        self._registry.register(collector)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    def __init__(self, usage: Callable[[], EngineUsage]) -> None:
        self._usage = usage

    def collect(self) -> Iterator[CounterMetricFamily]:
        usage = self._usage()
        yield CounterMetricFamily("brew_engine_prompts", "Engine calls", value=usage.prompts)
        yield CounterMetricFamily("brew_engine_fallbacks", "Failed self-checks of the engine", value=usage.fallbacks)
        tokens = CounterMetricFamily("brew_engine_tokens", "Prompt tokens of engine calls", labels=["kind"])
        tokens.add_metric(["computed"], usage.prompt_tokens - usage.cached_tokens)
        tokens.add_metric(["cached"], usage.cached_tokens)
        yield tokens


def merged(texts: Mapping[str, bytes]) -> bytes:
    """Combine the metrics of many processes into one text; the label `replica` holds the key in `texts`."""
    families: dict[str, Metric] = {}
    for replica, text in texts.items():
        for family in text_string_to_metric_families(text.decode()):
            into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            into.samples += [sample._replace(labels={**sample.labels, "replica": replica}) for sample in family.samples]
    registry = CollectorRegistry()
    registry.register(_Families(families.values()))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
