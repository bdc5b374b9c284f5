"""Formats the output of the commands: training runs, the service, loss curves."""
