"""Reads packed bins, orders them and collates them into batches."""
