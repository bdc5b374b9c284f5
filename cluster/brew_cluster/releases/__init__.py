"""Releases: the steps from data to a served version as commands, sweeps of them, and their results."""
