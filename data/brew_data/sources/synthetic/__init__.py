"""The synthetic economic graph."""
