"""Sharded checkpoints, the ledger, and export."""
