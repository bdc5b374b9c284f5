"""Sharded checkpoints that exist completely or not at all, and what is made of them."""
