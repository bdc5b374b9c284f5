"""From tables to token ids: sources, task specs, the prompt compiler, packing, and the Ray Data pipelines."""
