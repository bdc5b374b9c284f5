"""Shared by all areas: errors, configuration, files, processes, console output, object storage, model registry."""
