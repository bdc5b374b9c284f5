"""Formats of input files: CSV, JSON lines and Parquet as batches of raw columns, with the line of every row."""
