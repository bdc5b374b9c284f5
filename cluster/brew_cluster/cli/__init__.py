"""The `brew360` command line."""
