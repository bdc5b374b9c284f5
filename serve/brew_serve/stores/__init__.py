"""Connections to SQLite and Redis that the stores share."""
