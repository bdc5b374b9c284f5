"""From a registry version to scores: the engine, the scorer, batch scoring, and the HTTP service."""
