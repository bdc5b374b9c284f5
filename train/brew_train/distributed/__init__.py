"""Collectives and consensus among the processes of a run."""
