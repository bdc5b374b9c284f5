"""Dashboards as Grafana imports and provisions them (dashboard JSON, schema version 39: Grafana 10 and later)."""

import hashlib
from typing import Any

from brew_cluster.dashboards.panels import Dashboard, Panel

__all__ = ["dashboard_document", "provisioning_files"]

_SCHEMA_VERSION = 39
_WIDTH, _HEIGHT = 12, 8  # of a panel, in units of Grafana's grid of 24 columns
_SOURCE = {"type": "prometheus", "uid": "${source}"}  # the variable `source` of the dashboard
_UID = "brew360-prometheus"


def dashboard_document(dashboard: Dashboard) -> dict[str, Any]:
    """Return a dashboard as Grafana's JSON. Its data source is a variable, so any Grafana can import it."""
    return {
        "uid": dashboard.name,
        "title": dashboard.title,
        "tags": ["brew360"],
        "schemaVersion": _SCHEMA_VERSION,
        "version": _version(dashboard),
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "links": [{"type": "dashboards", "title": "brew360", "tags": ["brew360"], "asDropdown": True}],
        "templating": {
            "list": [
                {
                    "name": "source",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {"text": "brew360", "value": _UID},
                    "hide": 0,
                }
            ]
        },
        "panels": [_panel(panel, number) for number, panel in enumerate(dashboard.panels)],
    }


def provisioning_files(prometheus_url: str, folder: str) -> dict[str, dict[str, Any]]:
    """Return the files of Grafana's provisioning by their paths: the data source, and where the dashboards are.

    Args:
        prometheus_url: Address of Prometheus.
        folder: Of the dashboards, on the machine of Grafana.
    """
    source = {
        "name": "brew360",
        "uid": _UID,
        "type": "prometheus",
        "access": "proxy",
        "url": prometheus_url,
        "isDefault": True,
    }
    provider = {
        "name": "brew360",
        "type": "file",
        "folder": "brew360",
        "disableDeletion": True,
        "allowUiUpdates": False,
        "options": {"path": folder},
    }
    return {
        "datasources/brew360.yml": {"apiVersion": 1, "datasources": [source]},
        "dashboards/brew360.yml": {"apiVersion": 1, "providers": [provider]},
    }


def _panel(panel: Panel, number: int) -> dict[str, Any]:
    custom = {
        "drawStyle": "line",
        "fillOpacity": 25 if panel.stacked else 0,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "showPoints": "never",
        "spanNulls": False,
    }
    limits: dict[str, float] = {} if panel.unit == "none" else {"min": 0}
    limits |= {} if panel.maximum is None else {"max": panel.maximum}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": _SOURCE,
        "gridPos": {"x": number % 2 * _WIDTH, "y": number // 2 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, **limits, "custom": custom},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
                "range": True,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _version(dashboard: Dashboard) -> int:
    """Return a number that changes with the content, by which Grafana sees that a file has changed."""
    return int.from_bytes(hashlib.sha256(repr(dashboard).encode()).digest()[:3])
