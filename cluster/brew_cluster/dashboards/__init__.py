"""Prometheus rules and alerts, dashboards for Grafana, and the command that starts both."""
