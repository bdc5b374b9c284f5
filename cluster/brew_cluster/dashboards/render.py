"""Renders the files of Prometheus and Grafana from the settings."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from brew_cluster.dashboards.boards import DASHBOARDS
from brew_cluster.dashboards.config import DashboardsConfig
from brew_cluster.dashboards.grafana import dashboard_document, provisioning_files
from brew_cluster.dashboards.kubernetes import kubernetes_objects
from brew_cluster.dashboards.overview import overview_page
from brew_platform.files import replace_atomically

__all__ = ["load_rules", "render_dashboards", "runbook_of", "write_dashboards"]

_LONGEST_TIMEOUT = 10.0  # seconds; a gateway waits 5 s for replicas that do not answer
_THRESHOLDS = ("error_budget", "latency_seconds", "lag_seconds", "queue_seconds")


def render_dashboards(config: DashboardsConfig) -> dict[str, str]:
    """Return the content of the files by their paths in `config.folder`.

    `prometheus.yml` and `rules/*.yml` are for Prometheus, `consoles/overview.html` is a page that it serves;
    `grafana/dashboards/*.json` and `grafana/provisioning/` are for Grafana, `kubernetes/dashboards.yaml` for both on
    Kubernetes.
    """
    folder = Path(config.folder).absolute()
    rules = load_rules(config)
    rendered = {f"rules/{name}": _yaml(document) for name, document in rules.items()}
    rendered["prometheus.yml"] = _yaml(_prometheus(config, sorted(rules)))
    rendered["consoles/overview.html"] = overview_page(DASHBOARDS)
    boards = {board.name: json.dumps(dashboard_document(board), indent=2) + "\n" for board in DASHBOARDS}
    rendered |= {f"grafana/dashboards/{name}.json": text for name, text in boards.items()}
    rendered["kubernetes/dashboards.yaml"] = yaml.safe_dump_all(kubernetes_objects(rules, boards), sort_keys=False)
    url = f"http://127.0.0.1:{config.port}"
    for name, document in provisioning_files(url, str(folder / "grafana" / "dashboards")).items():
        rendered[f"grafana/provisioning/{name}"] = _yaml(document)
    return rendered


def write_dashboards(config: DashboardsConfig) -> list[Path]:
    """Write the files of `render_dashboards`, and return their paths."""
    paths = []
    for name, text in render_dashboards(config).items():
        path = Path(config.folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(path, text.encode())
        paths.append(path)
    return paths


def load_rules(config: DashboardsConfig) -> dict[str, dict[str, Any]]:
    """Return the rules by file name, with the thresholds of the settings and a link to the runbook of each alert."""
    loaded = {}
    for source in sorted(files("brew_cluster.dashboards").joinpath("rules").iterdir(), key=lambda file: file.name):
        text = source.read_text()
        for name in _THRESHOLDS:
            text = text.replace(f"${{{name}}}", f"{getattr(config, name):g}")
        document = yaml.safe_load(text)
        for group in document["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    rule["annotations"]["runbook"] = f"{config.runbooks}/{runbook_of(rule['alert'])}"
        loaded[source.name] = document
    return loaded


def runbook_of(alert: str) -> str:
    """Return the file name of an alert's runbook: `ServingDown` has `serving-down.md`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", alert).lower() + ".md"


def _prometheus(config: DashboardsConfig, rules: list[str]) -> dict[str, Any]:
    interval = f"{config.interval_seconds:g}s"
    scrapes = [
        _scrape(name, config, static_configs=[{"targets": targets}], **options)
        for name, targets, options in _static_targets(config)
    ]
    if config.ray_targets is not None:
        files_ = [{"files": [str(Path(config.ray_targets).absolute())]}]
        scrapes.append(_scrape("brew360-ray-nodes", config, file_sd_configs=files_))
    alertmanagers = [{"static_configs": [{"targets": list(config.alertmanagers)}]}] if config.alertmanagers else []
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [f"rules/{name}" for name in rules],
        "alerting": {"alertmanagers": alertmanagers},
        "scrape_configs": scrapes,
    }


def _static_targets(config: DashboardsConfig) -> list[tuple[str, list[str], dict[str, Any]]]:
    found: list[tuple[str, list[str], dict[str, Any]]] = []
    for name, url in (("brew360-service", config.service), ("brew360-jobs", config.jobs)):
        if url is not None:
            parts = urlsplit(url)
            options: dict[str, Any] = {"scheme": parts.scheme, "metrics_path": f"{parts.path.rstrip('/')}/metrics"}
            if config.key_file is not None:
                options["authorization"] = {"credentials_file": str(Path(config.key_file).absolute())}
            found.append((name, [parts.netloc], options))
    for name, targets in (("brew360-ray", config.ray), ("brew360-node", config.node)):
        if targets:
            found.append((name, list(targets), {}))
    return found


def _scrape(name: str, config: DashboardsConfig, **options: Any) -> dict[str, Any]:
    timeout = min(_LONGEST_TIMEOUT, config.interval_seconds)
    return {"job_name": name, "scrape_timeout": f"{timeout:g}s", **options}


def _yaml(document: Any) -> str:
    return str(yaml.safe_dump(document, sort_keys=False, width=120))
