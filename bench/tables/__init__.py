"""The time and memory of `brew360 data build` on a user's CSV files."""
