"""The `brew360` command."""
