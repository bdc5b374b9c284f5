"""The nearline service: accepts events, recomputes rankings asynchronously, and returns the latest ones."""
