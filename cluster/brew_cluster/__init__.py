"""Combines the other areas: the `brew360` command, its jobs, the recipes, and the local Ray cluster."""
