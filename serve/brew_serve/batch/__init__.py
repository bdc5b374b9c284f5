"""Batch scoring of request tables, with the engines of online serving."""
