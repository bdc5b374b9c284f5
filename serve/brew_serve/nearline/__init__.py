"""The nearline plane: accepts events, recomputes rankings asynchronously, and returns the latest ones."""
