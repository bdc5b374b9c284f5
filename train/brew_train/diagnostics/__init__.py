"""Checks of training without a cluster: dry run, comparison with float32, throughput."""
