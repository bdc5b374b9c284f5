"""Checks of training without a cluster: dry run, GPU parity, throughput."""
