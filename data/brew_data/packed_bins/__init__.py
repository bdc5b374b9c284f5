"""Packs documents into bins and writes them as Parquet files."""
