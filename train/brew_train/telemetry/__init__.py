"""Metrics and events of a run, and where they are written."""
