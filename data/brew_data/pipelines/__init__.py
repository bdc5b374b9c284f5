"""The Ray Data pipelines."""
