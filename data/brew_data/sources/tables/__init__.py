"""The source `tables`: a user's own CSV, JSONL or Parquet files, mapped by the recipe."""
