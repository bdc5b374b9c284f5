"""Settings of `brew360 dashboards`: what Prometheus reads, and the thresholds of the alerts."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from brew_platform.config import load_config
from brew_platform.errors import ConfigError
from brew_platform.settings import PositiveInt, Range, Seconds, Settings

__all__ = ["DashboardsConfig", "load_dashboards"]

_RECIPE = Path(__file__).parent.parent / "recipes" / "dashboards.yaml"


@dataclass(frozen=True, kw_only=True)
class DashboardsConfig(Settings):
    """Settings of Prometheus, its alerts, and Grafana.

    Raises:
        ConfigError: An address is not a URL, or not `host:port`.
    """

    folder: str = "runs/dashboards"  # files and data of Prometheus and Grafana
    service: str | None = "http://127.0.0.1:8000"  # address of the service; null: none
    jobs: str | None = None  # address of the job gateway; null: none
    key_file: str | None = None  # file with an API key of scope admin, for services with keys; Prometheus reads it
    ray: list[str] = field(default_factory=list)  # host:port of the metrics of Ray nodes
    ray_targets: str | None = None  # file with the nodes' targets: prom_metrics_service_discovery.json of Ray's head
    node: list[str] = field(default_factory=list)  # host:port of node exporters, which read the metrics of releases
    alertmanagers: list[str] = field(default_factory=list)  # host:port of Alertmanagers, which send the alerts
    port: Annotated[int, Range(ge=1, le=65_535)] = 9090  # of Prometheus, on this machine
    grafana_port: Annotated[int, Range(ge=1, le=65_535)] = 3000  # of Grafana, on this machine
    interval_seconds: Seconds = 15.0  # between two scrapes
    keep_days: PositiveInt = 30  # data of Prometheus
    error_budget: Annotated[float, Range(gt=0, lt=0.05)] = 0.001  # share of requests of a month that can fail
    latency_seconds: Seconds = 1.0  # alert if 1% of the rankings take longer
    lag_seconds: Seconds = 300.0  # alert if a nearline event waits longer
    queue_seconds: Seconds = 21_600.0  # alert if a job waits longer
    runbooks: str = "docs/runbooks"  # folder or URL of the runbooks, for links in alerts

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, url in (("service", self.service), ("jobs", self.jobs)):
            if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc):
                raise ConfigError(f"{name} is {url!r}; give a URL such as http://127.0.0.1:8000, or null.")
        for target in (*self.ray, *self.node, *self.alertmanagers):
            host, _, port = target.rpartition(":")
            if not host or not port.isdecimal() or "/" in host:
                raise ConfigError(f"ray, node or alertmanagers has {target!r}; give HOST:PORT, such as 10.0.0.4:8080.")
        if self.interval_seconds < 1:
            raise ConfigError(f"interval_seconds is {self.interval_seconds:g}; give 1 or more.")


def load_dashboards(arguments: list[str]) -> DashboardsConfig:
    """Load the settings.

    Args:
        arguments: A YAML file (optional), then `key=value`.

    Raises:
        ConfigError: A setting is unknown, or its value is not valid.
    """
    names = [argument for argument in arguments[:1] if "=" not in argument]
    return load_config(DashboardsConfig, Path(names[0]) if names else _RECIPE, overrides=arguments[len(names) :])
