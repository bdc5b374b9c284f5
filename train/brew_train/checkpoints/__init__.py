"""Writes and restores sharded checkpoints, records the trained bins in a ledger, and exports weights."""
