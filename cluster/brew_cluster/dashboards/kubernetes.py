"""Rules and dashboards as objects of Kubernetes, for the Prometheus operator and Grafana's sidecar."""

from collections.abc import Mapping
from typing import Any

__all__ = ["kubernetes_objects"]

_LABELS = {"app.kubernetes.io/part-of": "brew360"}


def kubernetes_objects(rules: Mapping[str, Mapping[str, Any]], dashboards: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a PrometheusRule for each file of rules, and a ConfigMap for each dashboard.

    Args:
        rules: Documents by file name, such as `serving.yml`.
        dashboards: Grafana's JSON by name.
    """
    found: list[dict[str, Any]] = [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": f"brew360-{name.removesuffix('.yml')}", "labels": _LABELS},
            "spec": document,
        }
        for name, document in rules.items()
    ]
    found += [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{name}-dashboard", "labels": {**_LABELS, "grafana_dashboard": "1"}},
            "data": {f"{name}.json": text},
        }
        for name, text in dashboards.items()
    ]
    return found
