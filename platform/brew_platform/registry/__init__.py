"""Publishes, fetches and promotes model versions on an object store."""
