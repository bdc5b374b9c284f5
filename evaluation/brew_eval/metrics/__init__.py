"""Metrics of scored rows, as statistics that are computed for many weightings of the members at once."""
