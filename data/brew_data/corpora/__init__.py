"""Builds training corpora: preference pairs."""
